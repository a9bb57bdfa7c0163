//! What is compared: the cases as data, and the shell functions that their scripts are made of.

use image_core::units::Bytes;
use keiki_tests::measure::{Goal, Measure, Way};

use crate::corpus::Source;

/// Work that several programs do.
pub struct Case {
    /// For `--case`.
    pub name: &'static str,
    pub title: &'static str,
    pub on: Source,
    /// For bash: run once, and not measured.
    pub prepare: &'static str,
    /// The machine's caches are dropped before each run. Such cases are the last of their source, for the others find it
    /// in the cache.
    pub cold: bool,
    pub ways: &'static [Way],
}

/// The programs whose versions a page names, with the option that asks for it.
pub const PROGRAMS: [(&str, &str); 8] = [
    ("partclone.info", "-v"),
    ("fsarchiver", "-V"),
    ("zstd", "--version"),
    ("dd", "--version"),
    ("dumpe2fs", "-V"),
    ("borg", "--version"),
    ("restic", "version"),
    ("casync", "--version"),
];

/// Each function saves to standard output, or into `$out`.
pub const FUNCTIONS: &str = r#"
export RESTIC_PASSWORD=none XDG_CACHE_HOME=$aside/cache BORG_BASE_DIR=$aside/base
export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
keiki() { "$keiki" --progress none -q "$@" < /dev/null; }
# A filesystem, where it lies, and options.
partclone() { "partclone.$1" -L /dev/null -c -s "$2" -o - "${@:3}" 2> /dev/null; }
to_keiki() { keiki --repo "$out" save "$1" --name disk "${@:2}"; }
to_borg() {
    [ -e "$out/config" ] || borg init -e none "$out"
    partclone ext4 "$1" -a0 | borg create --compression zstd,3 "$out::$(basename "$1")" -
}
to_restic() {
    [ -e "$out/config" ] || restic init -q -r "$out"
    partclone ext4 "$1" -a0 | restic backup -q -r "$out" --stdin --stdin-filename disk
}
to_casync() { casync make --store "$out" "$aside/index.caibx" "$1" > /dev/null; }
# What was saved before is there again, at the same path.
again() { rm -r "$run"; cp -a "$saved/$1" "$run"; }
from_partclone() {
    truncate -s "$(stat -c %s "$image")" "$out/disk"
    zstd -dcq "$saved/$1" | partclone.restore -q -C -W -s - -O "$out/disk" -L /dev/null 2> /dev/null
}
each_filesystem() { for one in "fat32 $esp" "ext4 $boot" "ext4 $root" "xfs $home"; do "$@" $one; done; }
pack_one() { partclone "$2" "$3" $1 | zstd -q -3 -T0 > "$out/${3##*/}"; }
map_one() { "partclone.$1" -q -L /dev/null -D -s "$2" -O "$aside/map" > /dev/null 2>&1; }
times() { for ((nth = 0; nth < $1; nth++)); do "${@:2}"; done; }
"#;

const fn wall(most: f64) -> Goal {
    Goal::Part(Measure::Wall, most)
}

const fn cpu(most: f64) -> Goal {
    Goal::Part(Measure::Cpu, most)
}

const fn bytes(most: f64) -> Goal {
    Goal::Part(Measure::Stored, most)
}

const fn memory(most: f64) -> Goal {
    Goal::Part(Measure::Memory, most)
}

/// Of a restore.
const MEMORY: &[Goal] = &[Goal::Memory(Bytes::mib(48))];

pub const CASES: [Case; 9] = [
    Case {
        name: "save",
        title: "Save an ext4",
        on: Source::Ext4,
        prepare: "",
        cold: false,
        ways: &[
            Way::own("keiki save", r#"to_keiki "$image""#, &[]),
            Way::peer(
                "partclone | zstd -3 -T0",
                r#"partclone ext4 "$image" | zstd -q -3 -T0 > "$out/image""#,
                &[wall(0.55), cpu(0.65), bytes(1.03), memory(1.0)],
            ),
            Way::peer(
                "partclone -a0 | zstd -3 -T0",
                r#"partclone ext4 "$image" -a0 | zstd -q -3 -T0 > "$out/image""#,
                &[wall(0.80), cpu(1.08), bytes(1.03), memory(1.0)],
            ),
            Way::peer(
                "fsarchiver -Z3 -j2",
                r#"fsarchiver savefs -Z3 -j2 "$out/image" "$loop" > /dev/null 2>&1"#,
                &[wall(0.50), cpu(0.75), bytes(1.00)],
            ),
            Way::peer(
                "zstd -3 -T0 of the whole disk",
                r#"zstd -q -3 -T0 < "$image" > "$out/image""#,
                &[],
            ),
            Way::floor("floor: zstd -3 and BLAKE3 alone", r#""$bench" --floor 3 "$used""#, &[]),
        ],
    },
    Case {
        name: "fast",
        title: "Save it fast",
        on: Source::Ext4,
        prepare: "",
        cold: false,
        ways: &[
            Way::own("keiki save --level 1", r#"to_keiki "$image" --level 1"#, &[]),
            Way::peer(
                "partclone -a0 | zstd -1 -T0",
                r#"partclone ext4 "$image" -a0 | zstd -q -1 -T0 > "$out/image""#,
                &[wall(0.85), cpu(1.10), bytes(1.02)],
            ),
        ],
    },
    Case {
        name: "restore",
        title: "Restore it into a file",
        on: Source::Ext4,
        prepare: r#"
            mkdir "$saved"
            keiki --repo "$saved/repo" save "$image" --name disk
            partclone ext4 "$image" | zstd -q -3 -T0 > "$saved/checked"
            partclone ext4 "$image" -a0 | zstd -q -3 -T0 > "$saved/plain"
            zstd -q -3 -T0 < "$image" > "$saved/whole"
            cat "$saved"/repo/packs/* > /dev/null"#,
        cold: false,
        ways: &[
            Way::own(
                "keiki restore --verify none",
                r#"keiki --repo "$saved/repo" restore disk "$out/disk" --keep-ids --verify none"#,
                MEMORY,
            ),
            Way::own(
                "keiki restore, all read back",
                r#"keiki --repo "$saved/repo" restore disk "$out/disk" --keep-ids"#,
                MEMORY,
            ),
            Way::peer("partclone.restore", "from_partclone checked", &[wall(0.35), cpu(0.45)]),
            Way::peer("partclone.restore of -a0", "from_partclone plain", &[wall(0.65), cpu(1.05)]),
            Way::peer("the same, then sync", r#"from_partclone plain; sync "$out/disk""#, &[]),
            Way::peer(
                "zstd -dc | dd conv=sparse",
                r#"zstd -dcq "$saved/whole" |
                    dd of="$out/disk" bs=1M conv=sparse iflag=fullblock status=none"#,
                &[],
            ),
        ],
    },
    Case {
        name: "map",
        title: "Map what the ext4 uses, ten times",
        on: Source::Ext4,
        prepare: "",
        cold: false,
        ways: &[
            Way::own("keiki inspect", r#"times 10 keiki inspect "$image""#, &[]),
            Way::peer("partclone -D", r#"times 10 map_one ext4 "$image""#, &[]),
            Way::peer("dumpe2fs", r#"times 10 dumpe2fs "$image" > /dev/null 2>&1"#, &[]),
        ],
    },
    Case {
        name: "cold",
        title: "Save the ext4 with cold caches",
        on: Source::Ext4,
        prepare: "",
        cold: true,
        ways: &[
            Way::own("keiki save", r#"to_keiki "$image""#, &[]),
            Way::peer(
                "partclone -a0 | zstd -3 -T0",
                r#"partclone ext4 "$image" -a0 | zstd -q -3 -T0 > "$out/image""#,
                &[],
            ),
        ],
    },
    Case {
        name: "fat",
        title: "Save a small FAT",
        on: Source::Fat,
        prepare: "",
        cold: false,
        ways: &[
            Way::own("keiki save", r#"to_keiki "$image""#, &[]),
            Way::peer(
                "partclone -a0 | zstd -3 -T0",
                r#"partclone fat32 "$image" -a0 | zstd -q -3 -T0 > "$out/image""#,
                &[wall(0.40)],
            ),
        ],
    },
    Case {
        name: "disk",
        title: "Save a whole disk with LVM",
        on: Source::Disk,
        prepare: "",
        cold: false,
        ways: &[
            Way::own("keiki save", r#"to_keiki "$image""#, &[]),
            Way::peer(
                "4 x partclone | zstd -3 -T0",
                "each_filesystem pack_one -a1",
                &[wall(0.60), cpu(0.70)],
            ),
            Way::peer("4 x partclone -a0 | zstd -3 -T0", "each_filesystem pack_one -a0", &[]),
            Way::peer(
                "dd | zstd -3 -T0",
                r#"dd if="$image" bs=1M status=none | zstd -q -3 -T0 > "$out/image""#,
                &[cpu(0.65), bytes(0.83)],
            ),
        ],
    },
    Case {
        name: "map-disk",
        title: "Map what that disk uses, three times",
        on: Source::Disk,
        prepare: "",
        cold: false,
        ways: &[
            Way::own("keiki inspect", r#"times 3 keiki inspect "$image""#, &[]),
            Way::peer("4 x partclone -D", "times 3 each_filesystem map_one", &[]),
        ],
    },
    Case {
        name: "second",
        title: "Save again, 2 % of files changed",
        on: Source::Changed,
        prepare: r#"
            mkdir "$saved"
            for program in keiki borg restic casync; do
                "to_$program" "$old"
                mv "$run" "$saved/$program"
                mkdir -p "$out" "$aside"
            done"#,
        cold: false,
        ways: &[
            Way::own("keiki", r#"to_keiki "$image""#, &[]).after("again keiki"),
            Way::peer("borg", r#"to_borg "$image""#, &[cpu(0.30), bytes(0.10)]).after("again borg"),
            Way::peer("restic", r#"to_restic "$image""#, &[cpu(0.20), bytes(0.15)])
                .after("again restic"),
            Way::peer("casync", r#"to_casync "$image""#, &[cpu(0.07), bytes(0.60)])
                .after("again casync"),
            Way::peer(
                "partclone -a0 | zstd -3, all again",
                r#"partclone ext4 "$image" -a0 | zstd -q -3 -T0 > "$out/image""#,
                &[bytes(0.025)],
            ),
            Way::floor(
                "floor: zstd -3 of the changed blocks",
                r#"zstd -q -3 < "$blocks" > "$out/blocks""#,
                &[bytes(1.2)],
            ),
        ],
    },
];
