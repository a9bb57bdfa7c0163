//! A Debian made by the harness boots, as it is: the ground that tests of save and restore stand on.
//!
//! CI sees it boot in `vm_restore`, before it is saved.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so what failed")]

/// All of them take long; see docs/TESTING.md for the two tiers.
mod only_all {
    use keiki_tests::debian::{self, Layout};
    use keiki_tests::judge;
    use keiki_tests::vm::{self, Firmware, Writes};
    use keiki_tests::volumes::{self, Volumes};

    #[test]
    fn vm_a_gpt_disk_boots_by_bios_and_by_uefi() {
        boots(Layout::Gpt, &[Firmware::Bios, Firmware::Uefi]);
    }

    fn boots(layout: Layout, ways: &[Firmware]) {
        let folder = tempfile::tempdir().unwrap();
        let debian = debian::make(layout, folder.path()).unwrap();
        judge::disks(&debian.disks).unwrap();
        for way in ways {
            let report = vm::boot(*way, &debian.disks, Writes::Discarded).unwrap();
            println!("{}", report.text());
            assert_eq!(report.section("state").unwrap(), "running", "{}", report.text());
            assert_eq!(report.section("failed").unwrap(), "", "{}", report.text());
            assert_eq!(report.section("firmware").unwrap(), format!("{way:?}").to_uppercase());
            assert_eq!(report.section("srv").unwrap(), "SRV-OK");
            assert_eq!(report.section("vgck").unwrap(), "");
        }
    }

    #[test]
    fn vm_an_mbr_disk_boots_by_bios_and_by_uefi() {
        boots(Layout::Mbr, &[Firmware::Bios, Firmware::Uefi]);
    }

    #[test]
    fn vm_a_root_over_two_disks_boots_by_bios_and_by_uefi() {
        boots(Layout::TwoDisks, &[Firmware::Bios, Firmware::Uefi]);
    }

    #[test]
    fn vm_a_machine_leaves_its_disk_sound_and_changed_only_if_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let debian = debian::make(Layout::Gpt, folder.path()).unwrap();
        let fresh = volumes::trees(&debian.disks).unwrap();
        vm::boot(Firmware::Bios, &debian.disks, Writes::Discarded).unwrap();
        volumes::expect_same(&fresh, &volumes::trees(&debian.disks).unwrap()).unwrap();
        vm::boot(Firmware::Bios, &debian.disks, Writes::Kept).unwrap();
        judge::disks(&debian.disks).unwrap();
        // The system's log, at least.
        volumes::expect_same(&fresh, &volumes::trees(&debian.disks).unwrap()).unwrap_err();
    }

    #[test]
    fn vm_a_lost_filesystem_shows_in_the_report() {
        let folder = tempfile::tempdir().unwrap();
        let debian = debian::make(Layout::Gpt, folder.path()).unwrap();
        let volumes = Volumes::of(&debian.disks).unwrap();
        let zeros = folder.path().join("zeros");
        std::fs::write(&zeros, [0; 4096]).unwrap();
        volumes.vg.unwrap().put("srv", &zeros).unwrap();
        let report = vm::boot(Firmware::Bios, &debian.disks, Writes::Discarded).unwrap();
        println!("{}", report.text());
        assert_ne!(report.section("state").unwrap(), "running");
        assert_ne!(report.section("srv").unwrap(), "SRV-OK");
    }
}
