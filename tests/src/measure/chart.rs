//! Bars: what we take of the time of each peer.

use super::results::figure;
use super::{Measure, Results, Role};

/// Of the picture, and where its bars begin and end.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 285.0;
const RIGHT: f64 = 795.0;

/// The ratio at which bars end: what is longer is cut, and has its figure beside it.
const MOST: f64 = 1.25;
const BAR: f64 = 11.0;
const ROW: f64 = 2.0 * BAR + 9.0;
const HEAD: f64 = 30.0;
const TOP: f64 = 84.0;

/// Both are read on white and on black, and told apart by those who see no red or no green.
const BARS: [(Measure, &str, &str); 2] =
    [(Measure::Wall, "#2f81f7", "wall time"), (Measure::Cpu, "#c27c0e", "CPU time")];
const GREY: &str = "#7a828e";

/// An SVG with a group of bars for each case that has peers.
pub fn svg(all: &[Results]) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for results in all {
        let peers = || results.ways.iter().enumerate().filter(|(_, way)| way.role == Role::Peer);
        if peers().next().is_none() {
            continue;
        }
        body.push_str(&text(16.0, y + 20.0, &results.title, "font-weight=\"bold\""));
        y += HEAD;
        for (at, way) in peers() {
            body.push_str(&text(LEFT - 8.0, y + BAR + 4.0, way.name, "text-anchor=\"end\""));
            for (nth, (measure, colour, _)) in (0_u8..).zip(BARS) {
                if let Some(ratio) = results.ratio(at, measure) {
                    body.push_str(&bar(y + f64::from(nth) * BAR, ratio, colour));
                }
            }
            y += ROW;
        }
    }
    frame(y) + &body + "</svg>\n"
}

/// Everything but the bars: title, legend, scale.
fn frame(bottom: f64) -> String {
    let height = bottom + 34.0;
    let title = "Time that keiki takes, as a part of what others take for the same work";
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"{GREY}\">\n\
         <title>{title}</title>\n"
    );
    svg.push_str(&text(16.0, 28.0, title, "font-size=\"17\" font-weight=\"bold\""));
    let mut x = LEFT;
    for (_, colour, name) in BARS {
        svg.push_str(&format!(
            "<rect x=\"{x}\" y=\"44\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{colour}\"/>\n"
        ));
        svg.push_str(&text(x + 18.0, 55.0, name, ""));
        x += 110.0;
    }
    svg.push_str(&text(x, 55.0, "shorter is better; 1.0 is the other program", ""));
    for (mark, strokes) in [
        (0.0, "stroke-opacity=\"0.5\""),
        (0.25, "stroke-opacity=\"0.25\""),
        (0.5, "stroke-opacity=\"0.25\""),
        (0.75, "stroke-opacity=\"0.25\""),
        (1.0, "stroke-width=\"2\" stroke-dasharray=\"5 3\""),
    ] {
        let x = place(mark);
        svg.push_str(&format!(
            "<line x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{bottom}\" stroke=\"{GREY}\" {strokes}/>\n",
            TOP - 12.0
        ));
        svg.push_str(&text(x, bottom + 18.0, &format!("{mark:?}"), "text-anchor=\"middle\""));
    }
    svg
}

fn bar(y: f64, ratio: f64, colour: &str) -> String {
    let end = place(ratio.min(MOST));
    let cut = if ratio > MOST { "… " } else { "" };
    let figure = format!("{cut}{}", figure(ratio));
    let label = text(end + 5.0, y + BAR - 1.5, &figure, "font-size=\"11\"");
    let width = (end - LEFT).max(1.0);
    let height = BAR - 1.0;
    format!(
        "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/>\n{label}"
    )
}

/// Where a ratio stands.
fn place(ratio: f64) -> f64 {
    LEFT + ratio / MOST * (RIGHT - LEFT)
}

fn text(x: f64, y: f64, words: &str, more: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {more}>{words}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::results::tests::results;

    #[test]
    fn each_peer_has_two_bars_and_floors_and_our_own_have_none() {
        let mut both = [results(), results()];
        both[1].title = "Less < more & so on".to_owned();
        let svg = svg(&both);
        assert_eq!(svg.matches(">a | b<").count(), 2, "{svg}");
        assert_eq!(svg.matches("<rect").count(), 2 + 2 * 2, "{svg}");
        assert!(!svg.contains("floor") && !svg.contains("slowly"), "{svg}");
        assert!(svg.contains(">Less &lt; more &amp; so on<") && svg.contains(">0.44<"), "{svg}");
    }
}
