//! Volume groups on files, made and read by LVM itself, without device-mapper.
//!
//! LVM runs with activation off and sees nothing but the loop devices of its own group, so no volume
//! group of the machine is touched. Logical volumes are filled and read through the segment map that
//! `lvs` prints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::exec::Call;
use image_core::extent::Extent;
use image_core::units::Bytes;
use serde_json::Value;

use crate::loops::Loop;
use crate::{call, sparse, tool};

/// A physical volume: some bytes of a file, and the loop device that LVM sees it through.
#[derive(Debug)]
struct Pv {
    file: PathBuf,
    extent: Extent,
    device: Loop,
}

/// A volume group; its loop devices go when it is dropped.
#[derive(Debug)]
pub struct Vg {
    name: String,
    pvs: Vec<Pv>,
}

/// A run of a logical volume and where it lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// First byte in the logical volume.
    pub start: Bytes,
    /// The file that its physical volume is on.
    pub file: PathBuf,
    /// The bytes of that file.
    pub extent: Extent,
}

impl Vg {
    /// Makes the group `name` on these places.
    ///
    /// # Errors
    /// Loop devices or LVM fail.
    pub fn create(name: &str, places: &[(PathBuf, Extent)]) -> Result<Self> {
        let vg = Self::attach(name, places)?;
        let mut devices = vg.devices();
        vg.lvm("pvcreate", [&["-ff".to_owned(), "-y".to_owned()], devices.as_slice()].concat())?;
        devices.insert(0, name.to_owned());
        vg.lvm("vgcreate", devices)?;
        Ok(vg)
    }

    /// Opens the group that is on these places.
    ///
    /// # Errors
    /// Loop devices fail, or there is not exactly one group.
    pub fn open(places: &[(PathBuf, Extent)]) -> Result<Self> {
        let mut vg = Self::attach("", places)?;
        let names = vg.lvm("vgs", words("--noheadings -o vg_name"))?;
        let names: Vec<&str> = names.split_whitespace().collect();
        ensure!(names.len() == 1, "expected one volume group, found {names:?}");
        vg.name = names.concat();
        Ok(vg)
    }

    fn attach(name: &str, places: &[(PathBuf, Extent)]) -> Result<Self> {
        let pvs = places
            .iter()
            .map(|(file, extent)| {
                let device = Loop::part(file, *extent)?;
                Ok(Pv { file: file.clone(), extent: *extent, device })
            })
            .collect::<Result<_>>()?;
        Ok(Self { name: name.to_owned(), pvs })
    }

    /// Makes the linear volume `lv`; `on` is the number of the only physical volume to use.
    ///
    /// # Errors
    /// LVM fails.
    pub fn add(&self, lv: &str, size: Bytes, on: Option<usize>) -> Result<()> {
        // Nothing is activated, so LVM can neither zero nor wipe the new volume's start.
        let mut args = words("-an -Zn -Wn --yes -n");
        args.extend([lv.to_owned(), "-L".to_owned(), format!("{}b", size.get())]);
        args.push(self.name.clone());
        args.extend(self.only(on)?);
        self.lvm("lvcreate", args).map(drop)
    }

    /// Enlarges the volume `lv` to `size`; `on` is the number of the physical volume that gives the space.
    ///
    /// # Errors
    /// LVM fails.
    pub fn extend(&self, lv: &str, size: Bytes, on: Option<usize>) -> Result<()> {
        let mut args = vec!["-L".to_owned(), format!("{}b", size.get())];
        args.push(format!("{}/{lv}", self.name));
        args.extend(self.only(on)?);
        self.lvm("lvextend", args).map(drop)
    }

    fn only(&self, pv: Option<usize>) -> Result<Option<String>> {
        pv.map(|number| self.devices().get(number).cloned().context("no such physical volume"))
            .transpose()
    }

    /// Runs an LVM command that sees this group only; its standard output.
    ///
    /// # Errors
    /// Any end but exit code 0, with LVM's words.
    pub fn lvm(&self, command: &str, args: Vec<String>) -> Result<String> {
        tool::run(&self.call(command, args))
    }

    /// The LVM command that [`Vg::lvm`] runs.
    pub fn call(&self, command: &str, args: Vec<String>) -> Call {
        let accepted: String =
            self.devices().iter().map(|device| format!("\"a|^{device}$|\",")).collect();
        let config = format!(
            "global{{activation=0}} backup{{backup=0 archive=0}} devices{{use_devicesfile=0 \
             obtain_device_list_from_udev=0 external_device_info_source=\"none\" \
             filter=[{accepted}\"r|.*|\"]}}"
        );
        let mut call = call!("lvm", command, "--config", config);
        call.args.extend(args.into_iter().map(Into::into));
        call.env("LVM_SUPPRESS_FD_WARNINGS", "1")
    }

    /// The loop devices of the physical volumes.
    pub fn devices(&self) -> Vec<String> {
        self.pvs.iter().map(|pv| pv.device.device().display().to_string()).collect()
    }

    /// The name of the group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every logical volume with the runs of bytes that it consists of, in order: segments, and the stripes
    /// of striped ones.
    ///
    /// # Errors
    /// LVM fails, or a volume is neither linear nor striped.
    pub fn segments(&self) -> Result<BTreeMap<String, Vec<Segment>>> {
        let mut map = BTreeMap::<String, Vec<Segment>>::new();
        let mut args = words("--segments --reportformat json --nosuffix --units b -o");
        args.push(
            "vg_extent_size,lv_name,segtype,seg_start,seg_size,stripe_size,seg_pe_ranges"
                .to_owned(),
        );
        args.push(self.name.clone());
        let json: Value = serde_json::from_str(&self.lvm("lvs", args)?)?;
        for row in json.pointer("/report/0/seg").and_then(Value::as_array).context("no report")? {
            let text =
                |key| row.get(key).and_then(Value::as_str).with_context(|| format!("no {key}"));
            let known = ["linear", "striped"].contains(&text("segtype")?);
            ensure!(known, "{} is {}", text("lv_name")?, text("segtype")?);
            let figure = |key| Ok::<_, anyhow::Error>(Bytes::new(text(key)?.parse::<u64>()?));
            let extent_size = figure("vg_extent_size")?;
            let places = text("seg_pe_ranges")?
                .split(' ')
                .map(|range| self.place(range, extent_size))
                .collect::<Result<Vec<_>>>()?;
            let list = map.entry(text("lv_name")?.to_owned()).or_default();
            let (start, size) = (figure("seg_start")?, figure("seg_size")?);
            let stripe = if places.len() > 1 { figure("stripe_size")? } else { size };
            for number in 0..size.units(stripe) {
                let count = u64::try_from(places.len())?;
                let (file, first) = &places[usize::try_from(number % count)?];
                let row = stripe.checked_mul(number / count).context("overflow")?;
                let extent = Extent::at(*first + row, stripe).context("overflow")?;
                let start = start + stripe.checked_mul(number).context("overflow")?;
                list.push(Segment { start, file: file.clone(), extent });
            }
        }
        for segments in map.values_mut() {
            segments.sort_by_key(|segment| segment.start);
        }
        Ok(map)
    }

    /// The file and position of a range of extents, as `/dev/loop0:0-9`.
    fn place(&self, range: &str, extent_size: Bytes) -> Result<(PathBuf, Bytes)> {
        let (device, range) = range.rsplit_once(':').context("no range of extents")?;
        let first: u64 = range.split('-').next().unwrap_or(range).parse()?;
        let pv = self.pvs.iter().find(|pv| pv.device.device() == Path::new(device));
        let pv = pv.with_context(|| format!("{device} is not of this group"))?;
        let within = extent_size.checked_mul(first).context("overflow")?;
        Ok((pv.file.clone(), pv.extent.start + self.data_start(device)? + within))
    }

    /// Where the extents of a physical volume begin.
    fn data_start(&self, device: &str) -> Result<Bytes> {
        let mut args = words("--noheadings --nosuffix --units b -o pe_start");
        args.push(device.to_owned());
        Ok(Bytes::new(self.lvm("pvs", args)?.trim().parse::<u64>()?))
    }

    fn of(&self, lv: &str) -> Result<Vec<Segment>> {
        self.segments()?.remove(lv).with_context(|| format!("{} has no volume {lv}", self.name))
    }

    /// Copies the file `image` into the volume `lv`.
    ///
    /// # Errors
    /// Reading, writing, or `image` is larger.
    pub fn put(&self, lv: &str, image: &Path) -> Result<()> {
        let segments = self.of(lv)?;
        let size: Bytes = segments.iter().map(|segment| segment.extent.len()).sum();
        let length = Bytes::new(std::fs::metadata(image)?.len());
        ensure!(length <= size, "{image:?} is larger than {lv}");
        for Segment { start, file, extent } in segments {
            sparse::copy(image, Extent::first(extent.len()).shifted(start), &file, extent.start)?;
        }
        Ok(())
    }

    /// Copies the volume `lv` into the new file `out`.
    ///
    /// # Errors
    /// Reading or writing.
    pub fn take(&self, lv: &str, out: &Path) -> Result<()> {
        let segments = self.of(lv)?;
        sparse::create(out, segments.iter().map(|segment| segment.extent.len()).sum())?;
        for Segment { start, file, extent } in segments {
            sparse::copy(&file, extent, out, start)?;
        }
        Ok(())
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}
