//! Disks as bars, before above after: partitions to scale, with names and sizes.
//!
//! A bar is two lines, for the serial console has only 24: what it is, and how large. Every part is at
//! least as wide as its size in figures where there is room; what is left is shared out by size.

use console::{measure_text_width, style};
use image_core::image::manifest::{Root, VolumeEntry, VolumeGroupEntry};
use image_core::plan::restore::{RestorePlan, VolumePlan};
use image_core::units::Bytes;

/// What terminals of old, and logs, have.
const USUAL_WIDTH: usize = 80;
/// Beyond this a bar says nothing more.
const WIDEST: usize = 160;
/// A part narrower than this says nothing.
const NARROWEST: usize = 4;
/// Free space below this part of a disk is alignment.
const WORTH_SHOWING: u64 = 200;

/// How the place that is drawn on looks.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    width: usize,
    line: char,
    colour: bool,
}

impl Style {
    /// Of standard error, where plans are shown; without a terminal as wide as one usually is.
    pub fn detect() -> Self {
        let term = console::Term::stderr();
        let width = if term.is_term() { usize::from(term.size().1) } else { USUAL_WIDTH };
        let colour = console::colors_enabled() && console::colors_enabled_stderr();
        let line = if is_utf8() { '\u{2502}' } else { '|' };
        Self { width: width.clamp(40, WIDEST), line, colour }
    }
}

/// Whether the locale says that the terminal understands UTF-8.
pub fn is_utf8() -> bool {
    let set = |name: &&str| std::env::var_os(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default();
    let locale = locale.to_string_lossy().to_ascii_uppercase();
    locale.contains("UTF-8") || locale.contains("UTF8")
}

/// A part of a disk or volume group.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Part {
    name: String,
    size: Bytes,
    /// By how much it grew.
    grown: Bytes,
    free: bool,
}

/// A disk or volume group.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Bar {
    title: String,
    size: Bytes,
    parts: Vec<Part>,
}

/// Every disk of the plan before and after, and below them every volume group.
pub fn restore(plan: &RestorePlan, root: &Root, style: Style) -> String {
    let mut lines = Vec::new();
    for (at, target) in plan.targets.iter().enumerate() {
        let before = disk_before(root, &target.slot);
        let path = target.path.display();
        let after = disk_after(plan, root, at, format!("after:  {path}, {}", target.size));
        // A volume without its disk, or a disk that is one volume, is drawn too: it may grow.
        lines.extend(pair(&before, &after, style));
    }
    let restored = |group: &&VolumeGroupEntry| {
        group.lvs.is_empty() || group.lvs.iter().any(|lv| !plan.replaced.contains(lv))
    };
    for group in root.volume_groups.iter().filter(restored) {
        let of_group =
            |volume: &&VolumeEntry| volume.container.as_deref() == Some(group.name.as_str());
        let sizes = |id: &str| plan.volumes.iter().find(|planned| planned.id == id);
        let short = |volume: &VolumeEntry| {
            let name = volume.id.rsplit_once('/').map_or(volume.id.as_str(), |(_, name)| name);
            with_content(name, volume)
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for volume in root.volumes.iter().filter(of_group) {
            before.push(part(short(volume), volume.size, Bytes::ZERO));
            if let Some(planned) = sizes(&volume.id) {
                after.push(grown(short(volume), planned));
            }
        }
        let prefix = format!("{}/", group.name);
        for kept in &plan.kept {
            if let Some(name) = kept.id.strip_prefix(&prefix) {
                after.push(part(format!("{name} stays"), kept.extents.total(), Bytes::ZERO));
            }
        }
        let space = |volume: &VolumeEntry| sizes(&volume.id).map_or(Bytes::ZERO, |plan| plan.to);
        let is_pv = |volume: &&VolumeEntry| group.pvs.iter().any(|pv| pv.volume == volume.id);
        let pvs = || root.volumes.iter().filter(is_pv);
        let old: Bytes = pvs().map(|volume| volume.size).sum();
        let new: Bytes = pvs().map(space).sum();
        let title = |when: &str, size: Bytes| format!("{when} volume group {}, {size}", group.name);
        lines.extend(pair(
            &with_rest(title("before:", old), old, before),
            &with_rest(title("after: ", new), new, after),
            style,
        ));
    }
    lines.join("\n")
}

fn with_content(name: &str, volume: &VolumeEntry) -> String {
    match volume.content.as_str() {
        "raw" => name.to_owned(),
        content if content == name => name.to_owned(),
        content => format!("{name} {content}"),
    }
}

fn part(name: String, size: Bytes, grown: Bytes) -> Part {
    Part { name, size, grown, free: false }
}

fn grown(name: String, planned: &VolumePlan) -> Part {
    part(name, planned.to, planned.to.saturating_sub(planned.from))
}

/// A bar whose parts stand side by side; what they leave is free.
fn with_rest(title: String, size: Bytes, mut parts: Vec<Part>) -> Bar {
    let used = parts.iter().fold(Bytes::ZERO, |sum, part| sum.saturating_add(part.size));
    push_free(&mut parts, size.saturating_sub(used), size);
    Bar { title, size, parts }
}

fn push_free(parts: &mut Vec<Part>, free: Bytes, whole: Bytes) {
    if free.get() > whole.get() / WORTH_SHOWING {
        parts.push(Part { name: "free".to_owned(), size: free, grown: Bytes::ZERO, free: true });
    }
}

/// A bar whose parts lie at positions.
fn by_position(title: String, size: Bytes, mut parts: Vec<(Bytes, Part)>) -> Bar {
    parts.sort_by_key(|(start, _)| *start);
    let (mut all, mut at) = (Vec::new(), Bytes::ZERO);
    for (start, part) in parts {
        push_free(&mut all, start.saturating_sub(at), size);
        at = at.max(start.saturating_add(part.size));
        all.push(part);
    }
    push_free(&mut all, size.saturating_sub(at), size);
    Bar { title, size, parts: all }
}

/// The volumes that lie directly on a disk or are loose; gaps are not worth a part.
fn lies_on<'a>(root: &'a Root, slot: &'a str) -> impl Iterator<Item = (usize, &'a VolumeEntry)> {
    let own = move |volume: &VolumeEntry| {
        volume.kind != "gap" && (volume.disk.as_deref() == Some(slot) || volume.id == slot)
    };
    root.volumes.iter().enumerate().filter(move |(_, volume)| own(volume))
}

/// `2 ext4`, `3 vg0`, or for a volume without a disk `ext4`.
fn name(root: &Root, volume: &VolumeEntry) -> String {
    let number = volume.id.rsplit_once(':').map_or("", |(_, number)| number);
    let holds = root
        .volume_groups
        .iter()
        .find(|group| group.pvs.iter().any(|pv| pv.volume == volume.id))
        .map_or(volume.content.as_str(), |group| group.name.as_str());
    format!("{number} {holds}").trim().to_owned()
}

fn disk_before(root: &Root, slot: &str) -> Bar {
    let disk = root.disks.iter().find(|disk| disk.id == slot);
    let loose = || lies_on(root, slot).map(|(_, volume)| volume.size).max();
    let size = disk.map(|disk| disk.size).or_else(loose).unwrap_or_default();
    let model = disk.and_then(|disk| disk.model.as_deref());
    let model = model.map_or(String::new(), |model| format!(", {}", plain(model)));
    let parts = lies_on(root, slot)
        .map(|(_, volume)| (volume.offset, part(name(root, volume), volume.size, Bytes::ZERO)))
        .collect();
    by_position(format!("before: {slot} as it was saved, {size}{model}"), size, parts)
}

fn disk_after(plan: &RestorePlan, root: &Root, target: usize, title: String) -> Bar {
    let stays = plan.kept.iter().filter(|kept| kept.target == target);
    let target = plan.targets.get(target);
    let (slot, size) =
        target.map_or(("", Bytes::ZERO), |target| (target.slot.as_str(), target.size));
    let parts = lies_on(root, slot)
        .filter_map(|(entry, volume)| {
            let planned = plan.volumes.iter().find(|planned| planned.entry == entry)?;
            Some((planned.offset, grown(name(root, volume), planned)))
        })
        .chain(stays.filter_map(|kept| {
            let (start, number) = (kept.extents.iter().next()?.start, kept.id.rsplit_once(':')?.1);
            Some((start, part(format!("{number} stays"), kept.extents.total(), Bytes::ZERO)))
        }))
        .collect();
    by_position(title, size, parts)
}

/// Two bars on one scale.
fn pair(before: &Bar, after: &Bar, style: Style) -> Vec<String> {
    let largest = before.size.max(after.size);
    let mut lines = draw(before, largest, style);
    lines.extend(draw(after, largest, style));
    lines
}

/// The title and the two lines of a bar, as wide as it is large beside `largest`.
fn draw(bar: &Bar, largest: Bytes, style: Style) -> Vec<String> {
    // One line is the last separator, and a terminal wraps in its last column.
    let room = style.width.saturating_sub(2);
    let parts = few(&bar.parts, room / NARROWEST);
    let wished = scaled(room, bar.size, largest);
    let widths = widths(&parts, wished, room);
    let (mut names, mut sizes) = (String::new(), String::new());
    for (part, width) in parts.iter().zip(&widths) {
        for (line, text) in [(&mut names, plain(&part.name)), (&mut sizes, figures(part, *width))] {
            line.push(style.line);
            line.push_str(&coloured(part, &fit(&text, width.saturating_sub(1)), style));
        }
    }
    names.push(style.line);
    sizes.push(style.line);
    vec![bar.title.clone(), names, sizes]
}

fn coloured(part: &Part, text: &str, look: Style) -> String {
    if !look.colour {
        return text.to_owned();
    }
    let styled = style(text).force_styling(true);
    if part.free {
        styled.dim().to_string()
    } else if part.grown.is_zero() {
        text.to_owned()
    } else {
        styled.green().to_string()
    }
}

/// The size, and by how much it grew where that fits.
fn figures(part: &Part, width: usize) -> String {
    let size = part.size.to_string();
    let with_growth = format!("{size} (+{})", part.grown);
    if !part.grown.is_zero() && with_growth.len() < width { with_growth } else { size }
}

/// At most `most` parts: the smallest of too many become one.
fn few(parts: &[Part], most: usize) -> Vec<Part> {
    if parts.len() <= most.max(1) {
        return parts.to_vec();
    }
    let mut sizes: Vec<Bytes> = parts.iter().map(|part| part.size).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let least = sizes.get(most.saturating_sub(2)).copied().unwrap_or_default();
    let (mut kept, mut rest) = (Vec::new(), (0_usize, Bytes::ZERO));
    for part in parts {
        if part.size >= least && kept.len() + 1 < most {
            kept.push(part.clone());
        } else {
            rest = (rest.0 + 1, rest.1.saturating_add(part.size));
        }
    }
    let name = format!("{} more", rest.0);
    kept.push(Part { name, size: rest.1, grown: Bytes::ZERO, free: true });
    kept
}

/// `room` reduced as `size` is beside `largest`.
fn scaled(room: usize, size: Bytes, largest: Bytes) -> usize {
    let room = u128::try_from(room).unwrap_or(0);
    let width = room * u128::from(size.get()) / u128::from(largest.get().max(1));
    usize::try_from(width).unwrap_or(0)
}

/// The width of each part, its left line included: what it needs, and its share of what is left.
fn widths(parts: &[Part], wished: usize, room: usize) -> Vec<usize> {
    let need = |part: &Part| {
        let text = part.name.len().min(12).max(part.size.to_string().len());
        (text + 1).max(NARROWEST)
    };
    let mut widths: Vec<usize> = parts.iter().map(need).collect();
    // Where not even that fits, the widest give way.
    while widths.iter().sum::<usize>() > room {
        match widths.iter_mut().max().filter(|widest| **widest > NARROWEST) {
            Some(widest) => *widest -= 1,
            None => break,
        }
    }
    let total: u128 = parts.iter().map(|part| u128::from(part.size.get())).sum::<u128>().max(1);
    let end = wished.min(room);
    let mut left = end.saturating_sub(widths.iter().sum());
    for (at, part) in parts.iter().enumerate() {
        let share = u128::try_from(end).unwrap_or(0) * u128::from(part.size.get()) / total;
        let share = usize::try_from(share).unwrap_or(0);
        if let Some(width) = widths.get_mut(at) {
            let more = share.saturating_sub(*width).min(left);
            *width += more;
            left -= more;
        }
    }
    widths
}

/// `text` in exactly `width` columns.
fn fit(text: &str, width: usize) -> String {
    let mut fitted = cut(text, width);
    let have = measure_text_width(&fitted);
    fitted.push_str(&" ".repeat(width.saturating_sub(have)));
    fitted
}

/// As much of `text` as `width` columns hold; what is cut ends in `~`.
pub fn cut(text: &str, width: usize) -> String {
    if measure_text_width(text) <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    for char in text.chars() {
        if measure_text_width(&short) + measure_text_width(char.encode_utf8(&mut [0; 4])) >= width {
            break;
        }
        short.push(char);
    }
    if width > 0 {
        short.push('~');
    }
    short
}

/// Without what could move the cursor: labels come from disks.
pub fn plain(text: &str) -> String {
    let ascii = !is_utf8();
    let bad = |char: char| char.is_control() || (ascii && !char.is_ascii());
    text.chars().map(|char| if bad(char) { '?' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use image_core::units::Bytes;

    use super::{Bar, Part, Style, by_position, cut, draw, pair, part};

    fn style(width: usize) -> Style {
        Style { width, line: '|', colour: false }
    }

    fn bar(size: u64, parts: &[(&str, u64)]) -> Bar {
        let mut at = 0;
        let placed = parts.iter().map(|(name, size)| {
            let start = Bytes::gib(at);
            at += size;
            (start, part((*name).to_owned(), Bytes::gib(*size), Bytes::ZERO))
        });
        let placed = placed.collect();
        by_position("disk".to_owned(), Bytes::gib(size), placed)
    }

    #[test]
    fn both_bars_are_on_one_scale() {
        let before = bar(100, &[("1 ext4", 25), ("2 xfs", 75)]);
        let mut after = bar(200, &[("1 ext4", 25), ("2 xfs", 175)]);
        after.parts[1].grown = Bytes::gib(100);
        let lines = pair(&before, &after, style(82));
        assert_eq!(lines[1], "|1 ext4   |2 xfs                        |");
        assert_eq!(lines[2], "|25 GiB   |75 GiB                       |");
        assert_eq!(lines[4].find("|2"), lines[1].find("|2"));
        assert!(lines[5].contains("175 GiB (+100 GiB)") && lines[5].len() == 81, "{}", lines[5]);
    }

    #[test]
    fn free_space_is_drawn_and_alignment_is_not() {
        let names = |bar: &Bar| bar.parts.iter().map(|part| part.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&bar(100, &[("1", 50), ("2", 50)])), ["1", "2"]);
        assert_eq!(names(&bar(100, &[("1", 50)])), ["1", "free"]);
        let late = part("1".to_owned(), Bytes::gib(99), Bytes::ZERO);
        let aligned = by_position(String::new(), Bytes::gib(100), vec![(Bytes::MIB, late)]);
        assert_eq!(names(&aligned), ["1", "free"]);
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!((cut("abcdef", 4).as_str(), cut("abcd", 4).as_str()), ("abc~", "abcd"));
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn no_bar_leaves_its_room() {
        for (count, width, larger) in
            (0..150).flat_map(|n| [(n, 40 + n % 7, 1), (n, 80, 3), (n, 159 - n, 50)])
        {
            let size = |at: usize| Bytes::new(1 << (at * 7 % 50));
            let parts = (0..count).map(|at| part("name of it".into(), size(at), Bytes::ZERO));
            let parts: Vec<Part> = parts.collect();
            let whole: Bytes = parts.iter().map(|part| part.size).sum();
            let bar = Bar { title: "title".to_owned(), size: whole, parts };
            let lines = draw(&bar, Bytes::new(whole.get() * larger), style(width.max(40)));
            for line in &lines {
                assert!(line.len() < width.max(40), "{count} parts in {width}: {line}");
            }
            assert_eq!((lines.len(), lines[1].len()), (3, lines[2].len()));
        }
    }
}
