//! What fuzzing begins with: inputs that each target accepts.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use image_core::image::codec::Encoder;
use image_core::image::delta::Base;
use image_core::image::hash::ChunkId;
use image_core::image::pack::Footer;
use image_core::image::record::Record;
use image_core::lvm::label;
use image_core::units::Bytes;
use netboot::multicast::packet::{Body, Packet};
use netboot::multicast::status::Status;
use netboot::multicast::symbols::SYMBOL;

use super::edited::{self, Edited};
use super::{filesystems, groups, guest, loaders, network, repository, tables};
use crate::format_sample;

/// A web server's page of a folder.
const LISTING: &[u8] =
    b"<a href=\"../\">up</a> <A HREF='keiki'>keiki</A> <a href=\"./packs/\"> <a href=\"./0a.1\">";

/// What clients ask a web server for.
const REQUESTS: [&str; 4] = [
    "GET /file HTTP/1.1\r\nHost: x\r\nRange: bytes=2-5\r\nConnection: close\r\n\r\n",
    "HEAD //a/../file HTTP/1.0\r\n\r\n",
    "GET /%66ile HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"x\"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST /file HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
];

/// A DISCOVER of PXE firmware of this architecture (RFC 4578).
fn boot_request(architecture: u8) -> Vec<u8> {
    let mut bytes = vec![1, 1, 6, 0, 1, 2, 3, 4];
    bytes.resize(28, 0);
    bytes.extend([0x52, 0x54, 0, 1, 2, architecture]);
    bytes.resize(236, 0);
    bytes.extend([99, 130, 83, 99, 53, 1, 1, 93, 2, 0, architecture, 60, 9]);
    bytes.extend(b"PXEClient");
    bytes.extend([97, 17, 0]);
    bytes.extend([7; 16]);
    bytes.push(255);
    bytes
}

/// Packets of a session, without their tags.
fn session() -> Vec<Vec<u8>> {
    let status =
        Status { seen: 3, until: 4, loss: 0.1, page: 0, words: vec![5], deficits: vec![(1, 2)] };
    let bodies = [
        Body::Status(1, status),
        Body::Plan(Duration::from_millis(50)),
        Body::Data { block: 0, symbol: 2, left: 1, begins: true, bytes: &[3; SYMBOL] },
        Body::Leave(2),
    ];
    let bytes = bodies.map(|body| {
        let packet = Packet { session: 7, sequence: 3, begun: 1, body }.to_bytes(&[7; 32]);
        packet.split_last_chunk::<8>().map(|(said, _)| said.to_vec()).unwrap_or_default()
    });
    vec![network::joined(&bytes.each_ref().map(Vec::as_slice))]
}

/// The seeds of a target, of which there is at least one.
///
/// # Errors
/// A fixture cannot be read.
pub fn seeds(target: &str) -> Result<Vec<Vec<u8>>> {
    Ok(match target {
        "tables" => untouched(tables::TABLES.len()),
        "signatures" => {
            let bases = filesystems::SWAP.iter().chain(&tables::RECORDS);
            bases
                .map(|name| Ok(Edited::of(&edited::Base::load(name)?).bytes(0, 64 << 10)))
                .collect::<Result<_>>()?
        }
        "restore_record" => untouched(tables::RECORDS.len()),
        "ext" => untouched(filesystems::EXT.len()),
        "journal" => untouched(filesystems::JOURNAL.len()),
        "xfs" => untouched(filesystems::XFS.len()),
        "fat" => untouched(filesystems::FAT.len()),
        "swap" => untouched(filesystems::SWAP.len()),
        "lvm_label" => untouched(groups::LABELS.len()),
        "lvm_text" => vec![text()?.into_bytes()],
        "record" => files("images")?,
        "root" => roots()?,
        "segment" => {
            files("tables")?.into_iter().map(|bytes| [vec![64 << 1], bytes].concat()).collect()
        }
        "trailer" => trailers()?,
        "chunk" => chunks()?,
        "delta" => vec![[vec![0x80], noise(9000), noise(9000)].concat()],
        "repository" => untouched(repository::count()),
        "listing" => vec![LISTING.to_vec()],
        "grub" => untouched(loaders::GRUBS.len()),
        "program" => vec![program()],
        "configuration" => configuration(),
        "moved" => moved(),
        "ramdisk" => ramdisks()?,
        "dhcp" => vec![network::joined(&[&boot_request(0), &boot_request(7)])],
        "multicast" => session(),
        "room" => vec![vec![1, 0, 0, 0, 0, 4, 0, 0, 0, 4, 1, 2, 3, 4], vec![0; 40]],
        "http" => {
            let asked = REQUESTS.iter().map(|request| request.as_bytes().to_vec());
            asked.chain(guest::requests()?).collect()
        }
        "tftp" => vec![
            network::joined(&[
                b"\0\x01file\0octet\0blksize\x001468\x00tsize\x000\x00windowsize\x0016\x00",
            ]),
            network::joined(&[b"\0\x02file\0octet\0", b"\0\x04\0\x00", b"\0\x05\0\x00no\0"]),
        ],
        other => anyhow::bail!("no seeds for {other}"),
    })
}

/// Every base as it is, and with its checksums made again.
fn untouched(bases: usize) -> Vec<Vec<u8>> {
    (0..bases)
        .flat_map(|number| [0, 1].map(|sign| vec![u8::try_from(number).unwrap_or(0), sign]))
        .collect()
}

/// The files of a folder of the format's sample.
fn files(folder: &str) -> Result<Vec<Vec<u8>>> {
    let folder = format_sample::folder().join("repository").join(folder);
    let mut paths: Vec<_> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    paths.into_iter().map(|path| Ok(fs::read(path)?)).collect()
}

fn roots() -> Result<Vec<Vec<u8>>> {
    let named = files("images")?
        .iter()
        .map(|bytes| Ok(Record::parse(bytes)?.root.to_string()))
        .collect::<Result<Vec<_>>>()?;
    let folder = format_sample::folder().join("repository/roots");
    named.iter().map(|name| Ok(fs::read(folder.join(name))?)).collect()
}

fn trailers() -> Result<Vec<Vec<u8>>> {
    let cut = |pack: Vec<u8>| {
        let length = Bytes::of(&pack);
        let end = pack.len().checked_sub(48).context("a pack without a footer")?;
        let trailer =
            Footer::parse(&pack[end..], length)?.trailer_len.index().context("too long")?;
        let start = end - trailer;
        Ok([u32::try_from(start)?.to_le_bytes().to_vec(), pack[start..end].to_vec()].concat())
    };
    files("packs")?.into_iter().map(cut).collect()
}

/// A chunk in each codec.
fn chunks() -> Result<Vec<Vec<u8>>> {
    let (old, mut new) = (noise(9000), noise(9000));
    new[5000..5100].fill(7);
    let mut encoder = Encoder::new(1)?;
    let base = Base { id: ChunkId::of(&old), plain: &old, stored_len: Bytes::of(&old) };
    let input = |codec: u8, base: &[u8], plain: &[u8], stored: &[u8]| -> Result<Vec<u8>> {
        let mut input = vec![codec];
        input.extend(u16::try_from(plain.len())?.to_le_bytes());
        input.extend(u16::try_from(base.len())?.to_le_bytes());
        Ok([&input, base, stored].concat())
    };
    let mut inputs = vec![input(0, &[], b"plain", b"plain")?];
    let mut stored = Vec::new();
    encoder.encode(&[5; 3000], &mut stored)?;
    inputs.push(input(1, &[], &[5; 3000], &stored)?);
    for window in [Bytes::kib(64), Bytes::BLOCK] {
        let codec = encoder.encode_delta(window, &base, &new, &mut stored)?.context("no delta")?;
        inputs.push(input(codec.0, &old, &new, &stored)?);
    }
    Ok(inputs)
}

fn text() -> Result<String> {
    let base = edited::Base::load(groups::LABELS[0])?;
    let head = label::read(&Edited::of(&base))?.context("no label")?;
    head.text.context("no text")
}

/// The smallest PE32+ without a signature.
fn program() -> Vec<u8> {
    let mut bytes = vec![0; 0x200];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3C] = 0x80;
    bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
    bytes[0x98..0x9A].copy_from_slice(&[0x0B, 0x02]);
    bytes
}

fn configuration() -> Vec<Vec<u8>> {
    let texts = [
        format!("UUID={} / ext4 defaults 0 1\nLABEL=orchid /srv xfs defaults 0 0\n/dev/sda1 none swap\n", loaders::NAMED),
        "data /dev/mapper/vg0-root--lv none luks\nhome PARTLABEL=root none\n".to_owned(),
        format!("# GRUB Environment Block\nroot=/dev/vg0/root-lv\nid={}\n####", loaders::NAMED),
        "search --label orchid\nset root=lvm/vg0-root--lv\nlinux /vmlinuz root=/dev/mapper/vg0-root--lv\n".to_owned(),
        "activation { volume_list = [ \"vg0\", \"@tag\" ] }\n# \"vg0\"\n".to_owned(),
    ];
    (0..).zip(texts).map(|(number, text)| [vec![number], text.into_bytes()].concat()).collect()
}

fn moved() -> Vec<Vec<u8>> {
    let texts = [
        "/dev/vda1 / ext4 defaults 0 1\n/dev/sdb2 /srv xfs\n/dev/disk/by-id/x-part3 none swap sw\n",
        "data /dev/nvme0n1p2 none luks\nhome UUID=7 none\n",
        "linux /vmlinuz root=/dev/vda1 ro resume=UUID=9 quiet\nlinux /v root=/dev/sdb1 resume=/dev/sda3\n",
        "RESUME=UUID=7\nMODULES=dep\n",
        "VERSION=1\nIDTYPE=sys_wwid IDNAME=naa.5 DEVNAME=/dev/sda3 PVID=abc PART=3\n",
        "kernel/drivers/nvme/host/nvme.ko.xz: kernel/drivers/nvme/host/nvme-core.ko.xz\n",
    ];
    // What Windows is told of its name stands behind what tells a Linux.
    let unattend = b"\x05<unattend xmlns=\"urn:schemas-microsoft-com:unattend\"><settings pass=\"specialize\"><component \
        name=\"Microsoft-Windows-Shell-Setup\" processorArchitecture=\"amd64\"><ComputerName>*</ComputerName></component>\
        </settings></unattend>";
    let state = b"\x05[State]\r\nImageState=IMAGE_STATE_COMPLETE\r\n";
    let more = [unattend.to_vec(), state.to_vec()];
    (0..)
        .zip(texts)
        .map(|(number, text)| [vec![number], text.into()].concat())
        .chain(more)
        .collect()
}

fn ramdisks() -> Result<Vec<Vec<u8>>> {
    let plain = crate::moved::ramdisk(&["virtio_blk", "nvme"]);
    let packed = zstd::encode_all(plain.as_slice(), 1)?;
    Ok(vec![[plain.as_slice(), packed.as_slice()].concat(), plain, packed])
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}
