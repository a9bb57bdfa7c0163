//! The catalog: what images and packs there are, for readers of servers that cannot list a folder.
//!
//! A cache: whoever can list folders never asks it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::image::hash::Hash;
use crate::image::header::{Version, encode_json, parse_json, seal, unseal};
use crate::repo::images::{ImageInfo, Images};
use crate::repo::index::list_packs;
use crate::repo::read::Read;
use crate::repo::write::Session;
use crate::units::Bytes;

/// The catalog's path.
pub(super) const CATALOG: &str = "catalog";

/// The largest catalog that a reader takes.
const MAX_CATALOG: Bytes = Bytes::mib(16);

/// The file's content.
#[derive(PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct Catalog {
    #[serde(flatten)]
    version: Version,
    images: Vec<ImageInfo>,
    packs: Vec<CatalogPack>,
}

#[derive(PartialEq, Eq, Serialize, Deserialize, Debug)]
struct CatalogPack {
    name: Hash,
    size: Bytes,
}

impl Catalog {
    /// What the catalog should say.
    pub fn of(files: &dyn Read) -> Result<Self> {
        let packs = list_packs(files)?;
        let packs = packs.into_iter().map(|pack| CatalogPack { name: pack.name, size: pack.size });
        Ok(Self {
            version: Version::CURRENT,
            images: Images::read(files)?.intact,
            packs: packs.collect(),
        })
    }

    /// What the catalog says.
    pub fn read(files: &dyn Read) -> Result<Self> {
        let bytes = files.get(CATALOG, MAX_CATALOG)?;
        let parse = || parse_json("catalog", unseal("catalog", &bytes)?);
        parse().map_err(|error: Error| error.on(CATALOG))
    }

    /// The names of the files of a folder, as far as it lists that folder.
    pub fn names(&self, folder: &str) -> Option<Vec<String>> {
        match folder {
            "images" => Some(self.images.iter().map(|image| image.id.to_string()).collect()),
            "packs" => Some(self.packs.iter().map(|pack| pack.name.to_string()).collect()),
            _ => None,
        }
    }
}

/// Writes the catalog anew.
pub(super) fn write(session: &Session) -> Result<()> {
    let catalog = Catalog::of(session.files().as_ref())?;
    session.put(CATALOG, &seal(encode_json(&catalog)?))
}
