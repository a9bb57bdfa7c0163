//! The last bytes of a restore: those that make the rest be seen.
//!
//! They are made before anything is written, so that what cannot be made is refused in time; and they are
//! read back always.

use super::{Job, no_target};
use crate::disk::table::TableImage;
use crate::error::{Error, Result};
use crate::image::time::Timestamp;
use crate::lvm::write::pv_image;
use crate::report::Report;
use crate::units::Bytes;

/// Bytes for one place on one target.
struct Write {
    target: usize,
    at: Bytes,
    bytes: Vec<u8>,
}

/// Metadata of volume groups and partition tables, ready to be written.
pub(super) struct Finish<'a> {
    job: &'a Job<'a>,
    /// Metadata texts, headers of the metadata areas, labels.
    groups: [Vec<Write>; 3],
    /// Backup GPTs, EBRs, primary GPTs, MBRs.
    tables: [Vec<Write>; 4],
}

impl<'a> Finish<'a> {
    /// Makes all of it, and writes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] where a table or the metadata does not fit its target.
    pub(super) fn new(job: &'a Job<'a>) -> Result<Self> {
        let mut finish = Self { job, groups: Default::default(), tables: Default::default() };
        for group in &job.plan.groups {
            let text = group.vg.text(Timestamp::now().seconds())?;
            for (index, pv) in group.pvs.iter().enumerate() {
                let image = pv_image(&group.vg, index, &pv.head, &text)?;
                let label = vec![image.label];
                for (phase, patches) in
                    finish.groups.iter_mut().zip([image.text, image.area_headers, label])
                {
                    add(phase, pv.target, pv.extent.start, patches)?;
                }
            }
        }
        for (target, (medium, table)) in job.targets.iter().zip(&job.plan.tables).enumerate() {
            let Some(table) = table else { continue };
            let TableImage { backup, primary, ebr, mbr_sector } =
                table.image(medium.size(), medium.sector_size())?;
            for (phase, patches) in
                finish.tables.iter_mut().zip([backup, ebr, primary, vec![mbr_sector]])
            {
                add(phase, target, Bytes::ZERO, patches)?;
            }
        }
        Ok(finish)
    }

    /// Writes the metadata of all volume groups, the labels last, each part durable before the next.
    pub(super) fn volume_groups(&self) -> Result<()> {
        self.write(&self.groups)
    }

    /// Writes the partition tables, each part durable on all targets before the next.
    pub(super) fn tables(&self) -> Result<()> {
        self.write(&self.tables)
    }

    /// Lets the kernel see the partition tables.
    pub(super) fn reread(&self, report: &dyn Report) {
        for (medium, table) in self.job.targets.iter().zip(&self.job.plan.tables) {
            if let (Some(_), Err(error)) = (table, medium.reread_partitions()) {
                report.warning(&format!(
                    "the kernel still uses the old partition table ({error}); run: blockdev --rereadpt {}",
                    medium.name()
                ));
            }
        }
    }

    fn write(&self, phases: &[Vec<Write>]) -> Result<()> {
        for phase in phases {
            for Write { target, at, bytes } in phase {
                self.job.targets.get(*target).ok_or_else(no_target)?.write_at(*at, bytes)?;
            }
            self.job.targets.iter().try_for_each(|medium| medium.flush())?;
        }
        phases.iter().flatten().try_for_each(|write| self.compare(write))
    }

    fn compare(&self, write: &Write) -> Result<()> {
        let medium = self.job.targets.get(write.target).ok_or_else(no_target)?;
        if medium.direct()?.read(write.at, write.bytes.len())? == write.bytes {
            return Ok(());
        }
        let source = std::io::Error::other("the target returns other bytes than were written");
        Err(Error::io_at(medium.name(), "read back its metadata", write.at, source))
    }
}

fn add(
    phase: &mut Vec<Write>,
    target: usize,
    start: Bytes,
    patches: Vec<(Bytes, Vec<u8>)>,
) -> Result<()> {
    for (offset, bytes) in patches {
        let at = start.checked_add(offset).ok_or_else(no_target)?;
        phase.push(Write { target, at, bytes });
    }
    Ok(())
}
