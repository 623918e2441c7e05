//! Draws the dashboard as SVG: rows, panels with axes, lines and legends. Only what the page that shows it needs.

use std::fmt::Write as _;

use balancing_tests::Prometheus;

/// Width of the picture.
const WIDTH: f64 = 1200.0;
/// Between panels.
const GAP: f64 = 10.0;
/// Height of the title of a row, of a panel with a number, of the lines of a panel and of a line of its legend.
const ROW: f64 = 34.0;
const STAT: f64 = 84.0;
const PLOT: f64 = 130.0;
const LEGEND: f64 = 15.0;
/// Lines that a legend names at most, and those where all are 0.
const NAMED: usize = 8;
const NAMED_OF_ZEROS: usize = 4;
/// Room above and below the lines of a panel, and left of them for the numbers.
const ABOVE: f64 = 34.0;
const BELOW: f64 = 24.0;
const LEFT: f64 = 54.0;
/// Colours of lines that differ for most eyes, on white.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#56b4e9", "#e69f00", "#555555"];
const STYLE: &str = "text{font-family:DejaVu Sans,Verdana,Arial,sans-serif;font-size:11px;fill:#333}\
    .row{font-size:16px;font-weight:bold}.title{font-size:13px;font-weight:bold}.number{font-size:28px}";

/// A line, by its name in the legend: seconds since the beginning, and values.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A panel with its lines.
pub(crate) struct Drawn {
    pub(crate) title: String,
    pub(crate) unit: String,
    pub(crate) is_stat: bool,
    /// In columns of 24.
    pub(crate) width: u64,
    pub(crate) lines: Vec<Line>,
}

impl Line {
    /// Its highest value.
    pub(crate) fn highest(&self) -> f64 {
        self.points.iter().map(|point| point.1).filter(|value| value.is_finite()).fold(0.0, f64::max)
    }
}

impl Drawn {
    fn height(&self) -> f64 {
        if self.is_stat { STAT } else { ABOVE + PLOT + BELOW + self.legend_height() }
    }

    /// Of the two columns of the legend.
    fn legend_height(&self) -> f64 {
        LEGEND * self.named().div_ceil(self.columns()) as f64 + if self.rest() > 0 { LEGEND } else { 0.0 }
    }

    /// Lines that the legend names, and those that it only counts.
    fn named(&self) -> usize {
        match self.lines.iter().filter(|line| line.highest() > 0.0).count() {
            0 => self.lines.len().min(NAMED_OF_ZEROS),
            above => above.min(NAMED),
        }
    }

    fn rest(&self) -> usize {
        self.lines.len() - self.named()
    }

    fn columns(&self) -> usize {
        if self.width > 8 { 2 } else { 1 }
    }
}

/// The whole picture of a time of that many seconds.
pub(crate) fn draw(rows: &[(String, Vec<Drawn>)], seconds: f64) -> String {
    let (mut body, mut y) = (String::new(), GAP);
    for (title, panels) in rows {
        text(&mut body, (GAP, y + 20.0), "row", title);
        y += ROW;
        for line in lines_of(panels) {
            let height = line.iter().map(|panel| panel.height()).fold(0.0, f64::max);
            let mut column = 0;
            for panel in line {
                let unit = (WIDTH - GAP) / 24.0;
                let place = (GAP + column as f64 * unit, y, panel.width as f64 * unit - GAP, height);
                frame(&mut body, place, panel, seconds);
                column += panel.width;
            }
            y += height + GAP;
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" height=\"{y}\">\n\
         <style>{STYLE}</style>\n<rect width=\"{WIDTH}\" height=\"{y}\" fill=\"#f4f5f7\"/>\n{body}</svg>\n"
    )
}

/// Panels side by side, 24 columns at most.
fn lines_of(panels: &[Drawn]) -> Vec<Vec<&Drawn>> {
    let mut lines: Vec<Vec<&Drawn>> = Vec::new();
    for panel in panels {
        let used = lines.last().map_or(24, |line| line.iter().map(|panel| panel.width).sum::<u64>());
        if used + panel.width > 24 {
            lines.push(Vec::new());
        }
        lines.last_mut().unwrap().push(panel);
    }
    lines
}

/// A panel at a place: left, top, width and height.
fn frame(body: &mut String, place: (f64, f64, f64, f64), panel: &Drawn, seconds: f64) {
    let (x, y, width, height) = place;
    let size = format!("x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"");
    writeln!(body, "<rect {size} fill=\"#fff\" stroke=\"#d5d8dd\"/>").unwrap();
    text(body, (x + 10.0, y + 20.0), "title", &panel.title);
    if panel.is_stat {
        return numbers(body, (x, y, width), panel);
    }
    let values = panel.lines.iter().flat_map(|line| line.points.iter().map(|point| point.1));
    let plot = Plot {
        left: x + LEFT,
        bottom: y + ABOVE + PLOT,
        span: width - LEFT - 12.0,
        top: nice(values.filter(|value| value.is_finite()).fold(0.0, f64::max)),
        seconds,
    };
    plot.axes(body, &panel.unit);
    // The highest lines have a name and a colour, and lie above the others.
    for (number, line) in panel.lines.iter().enumerate().rev() {
        let path = path(line, |point| plot.place(point));
        writeln!(body, "<path d=\"{path}\" {}/>", stroke(number)).unwrap();
    }
    legend(body, (x + 12.0, plot.bottom + BELOW + 8.0, width), panel);
}

/// Where the lines of a panel are.
struct Plot {
    left: f64,
    bottom: f64,
    span: f64,
    /// The value at the top.
    top: f64,
    /// The time at the right.
    seconds: f64,
}

impl Plot {
    fn place(&self, (at, value): (f64, f64)) -> (f64, f64) {
        (self.left + self.span * at / self.seconds, self.bottom - PLOT * value / self.top)
    }

    fn axes(&self, body: &mut String, unit: &str) {
        for part in 0..=4 {
            let value = self.top * f64::from(part) / 4.0;
            let (left, level) = self.place((0.0, value));
            writeln!(body, "<path d=\"M{left:.1} {level:.1}h{:.1}\" stroke=\"#e4e6ea\"/>", self.span)
                .unwrap();
            if part % 2 == 0 {
                anchored(body, (left - 5.0, level + 4.0), "end", &shown(value, unit));
            }
        }
        let step = if self.seconds > 150.0 { 60.0 } else { 20.0 };
        let mut at = 0.0;
        while at <= self.seconds {
            let (x, y) = self.place((at, 0.0));
            anchored(body, (x, y + 15.0), "middle", &format!("{at} s"));
            at += step;
        }
    }
}

/// How the line of that number is drawn.
fn stroke(number: usize) -> String {
    let colour = COLOURS.get(number).unwrap_or(&"#c4c7cc");
    let width = if number < NAMED { 1.8 } else { 1.0 };
    format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"")
}

/// Below the lines, within a width.
fn legend(body: &mut String, (x, y, width): (f64, f64, f64), panel: &Drawn) {
    let columns = panel.columns();
    let place = |number: usize| {
        let column = (number % columns) as f64 * width / columns as f64;
        (x + column, y + LEGEND * (number / columns) as f64)
    };
    for (number, line) in panel.lines.iter().enumerate().take(panel.named()) {
        let (key, under) = place(number);
        writeln!(body, "<path d=\"M{key:.1} {:.1}h16\" {}/>", under - 4.0, stroke(number)).unwrap();
        text(body, (key + 21.0, under), "", &line.name);
    }
    if panel.rest() > 0 {
        let (key, under) = place(panel.named().next_multiple_of(columns));
        writeln!(body, "<path d=\"M{key:.1} {:.1}h16\" {}/>", under - 4.0, stroke(NAMED)).unwrap();
        text(body, (key + 21.0, under), "", &format!("and {} more", panel.rest()));
    }
}

/// The last values, side by side.
fn numbers(body: &mut String, (x, y, width): (f64, f64, f64), panel: &Drawn) {
    let part = width / panel.lines.len() as f64;
    for (number, line) in panel.lines.iter().enumerate() {
        let middle = x + part * (number as f64 + 0.5);
        let value = line.points.last().map_or_else(|| "-".to_owned(), |point| shown(point.1, &panel.unit));
        writeln!(
            body,
            "<text x=\"{middle:.1}\" y=\"{:.1}\" class=\"number\" text-anchor=\"middle\">{value}</text>",
            y + 55.0
        )
        .unwrap();
        anchored(body, (middle, y + 74.0), "middle", &line.name);
    }
}

/// The points of a line; where there is no value, it is broken.
fn path(line: &Line, place: impl Fn((f64, f64)) -> (f64, f64)) -> String {
    let (mut path, mut before) = (String::new(), None);
    let gap = 1.5 * Prometheus::SCRAPE.as_secs_f64();
    for &(at, value) in line.points.iter().filter(|point| point.1.is_finite()) {
        let (x, y) = place((at, value));
        let step = if before.is_some_and(|before| at - before <= gap) { 'L' } else { 'M' };
        write!(path, "{step}{x:.1} {y:.1}").unwrap();
        before = Some(at);
    }
    path
}

/// The next number whose half is short.
fn nice(top: f64) -> f64 {
    if top <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(top.log10().floor());
    [1.0, 1.2, 1.6, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|nice| *nice >= top * 0.999)
        .unwrap()
}

/// A value with its unit, as Grafana names them.
fn shown(value: f64, unit: &str) -> String {
    match unit {
        "short" => number(value),
        "percentunit" => format!("{} %", number(value * 100.0)),
        "ops" => format!("{}/s", number(value)),
        "pps" => format!("{} p/s", number(value)),
        "s" if value > 0.0 && value < 1.0 => format!("{} ms", number(value * 1000.0)),
        "s" => format!("{} s", number(value)),
        other => panic!("the picture knows no unit {other}"),
    }
}

fn number(value: f64) -> String {
    let text = if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn text(body: &mut String, (x, y): (f64, f64), class: &str, words: &str) {
    writeln!(body, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>", safe(words)).unwrap();
}

fn anchored(body: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    writeln!(body, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", safe(words))
        .unwrap();
}

fn safe(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;")
}

#[test]
fn axes_and_numbers_are_round() {
    assert_eq!([0.0, 0.025, 3.0, 11.0, 41.0].map(nice), [1.0, 0.03, 3.0, 12.0, 50.0]);
    assert_eq!(shown(0.25, "percentunit"), "25 %");
    assert_eq!(shown(0.0015, "s"), "1.5 ms");
    assert_eq!(shown(100.0, "ops"), "100/s");
}

#[test]
fn a_line_breaks_where_it_has_no_value() {
    let points = vec![(0.0, 1.0), (2.0, 2.0), (4.0, f64::NAN), (6.0, 1.0)];
    let line = Line { name: String::new(), points };
    assert_eq!(path(&line, |point| point), "M0.0 1.0L2.0 2.0M6.0 1.0");
}
