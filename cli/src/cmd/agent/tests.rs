//! What an order has to be before anything of it is done.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use netboot::orders::machine::{Disk, Machine};
use netboot::orders::order::{Order, SiteKey};
use tempfile::TempDir;

use super::line::Line;
use super::{Agent, Exit, Site, checked, own, remains};

const NONCE: &str = "nonce";

/// A machine with one disk, its site, and an order for it.
struct World {
    folder: TempDir,
    key: SiteKey,
    site: Site,
    args: Agent,
    machine: Machine,
    order: Order,
}

fn agent(disks: Vec<PathBuf>) -> Agent {
    Agent { server: None, site_key: None, disks, save: None, consoles: Vec::new() }
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::write(&disk, [7; 8192]).unwrap();
    let key = SiteKey::open(&folder.path().join("key")).unwrap();
    let site =
        Site { line: Line::new("http://127.0.0.1:9"), key: key.public(), repo: String::new() };
    let args = agent(vec![disk]);
    let machine = own::machine(&args.disks).unwrap();
    let order = Order {
        machine: machine.id(),
        nonce: NONCE.to_owned(),
        seconds: 60,
        number: 1,
        image: "lab@12".to_owned(),
        disks: machine.disks.clone(),
        answers: "image = \"lab@12\"\n[[disk]]\nat_least = \"8 KiB\"\n".to_owned(),
        hostname: None,
        save: None,
        grant: String::new(),
    };
    World { folder, key, site, args, machine, order }
}

#[test]
fn what_remains_is_told_step_by_step_and_none_is_torn() {
    let steps = |count: usize, length: usize| vec!["x".repeat(length); count];
    let [holes, screen] = ["is zeros there: see keiki show", "on its screen, or run keiki repair"];
    assert_eq!(remains(Exit::StepsRemain, &["mount it".into(), "go".into()]), "mount it; go");
    assert!(remains(Exit::StepsRemain, &[]).ends_with(screen));
    let said = remains(Exit::Unreadable, &[]);
    assert!(said.ends_with(holes), "{said}");
    let said = remains(Exit::Unreadable, &steps(1, 9));
    assert!(said.contains(holes) && said.ends_with("; xxxxxxxxx"), "{said}");
    for (count, length) in [(4, 100), (1, 300), (30, 12), (200, 2)] {
        let said = remains(Exit::Unreadable, &steps(count, length));
        assert!(said.len() < 400 && said.ends_with(screen), "{}: {said}", said.len());
    }
}

impl World {
    /// Why this order is not carried out; nothing where it would be.
    fn refused(&self, order: &Order, made: Instant) -> String {
        let signed = self.key.sign(order);
        let is = checked(&self.site, (&self.machine, NONCE, made), (&self.args, &signed));
        is.err().map(|why| why.to_string()).unwrap_or_default()
    }
}

#[test]
fn an_order_is_for_one_machine_its_disks_one_start_and_an_hour() {
    let mut world = world();
    let now = Instant::now();
    let order = world.order.clone();
    assert_eq!(world.refused(&order, now), "");
    let other = Order { machine: "0123456789abcdef".to_owned(), ..order.clone() };
    assert_eq!(world.refused(&other, now), "the order is for another machine");
    let other = Order { nonce: "another".to_owned(), ..order.clone() };
    assert!(world.refused(&other, now).contains("before it started again"));
    let other = Order { seconds: 0, ..order.clone() };
    assert_eq!(world.refused(&other, now), "the order is too old");
    let long_ago = now.checked_sub(Duration::from_secs(61)).unwrap();
    assert_eq!(world.refused(&order, long_ago), "the order is too old");
    let other = Order { image: "lab@13".to_owned(), ..order.clone() };
    assert_eq!(world.refused(&other, now), "the order names two images");
    let other = Order { answers: "image = 5".to_owned(), ..order.clone() };
    assert!(world.refused(&other, now).starts_with("the order: "));

    // Another disk, one more, none: whatever the rules would take.
    let larger = |disk: &Disk| Disk { size: disk.size + 512, ..disk.clone() };
    let disks = order.disks.clone();
    for disks in [disks.iter().map(larger).collect(), [disks.clone(), disks].concat(), Vec::new()] {
        let said = world.refused(&Order { disks, ..order.clone() }, now);
        assert_eq!(said, "other disks fit the rules here than the order names");
    }
    let path = world.folder.path().join("other");
    std::fs::write(&path, [7; 8192]).unwrap();
    world.args = agent(vec![path]);
    let said = world.refused(&order, now);
    assert_eq!(said, "other disks fit the rules here than the order names");
}

#[test]
fn who_asks_to_be_saved_is_not_restored() {
    let mut world = world();
    world.args.save = Some("golden".parse().unwrap());
    let now = Instant::now();
    assert!(world.refused(&world.order, now).contains("the order is to restore it"));
    let save =
        Order { save: Some("golden".to_owned()), image: String::new(), ..world.order.clone() };
    assert_eq!(world.refused(&save, now), "");
}
