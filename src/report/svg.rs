//! Axes and marks: the little of SVG that the charts need.

use std::fmt::Write;

/// Size of a chart in its own units; the browser scales it to the column.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 250.0;
/// Room for the labels.
const LEFT: f64 = 52.0;
const BOTTOM: f64 = 24.0;
const MARGIN: f64 = 8.0;

/// Colours that differ for the colour-blind too (Okabe and Ito) and stand out from white and from near black.
pub(super) const COLOURS: [&str; 9] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56a4d9", "#8a63d2", "#a0522d", "#7f8790"];

/// One direction of a chart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    log: bool,
}

impl Axis {
    /// From 0 or a negative value up.
    pub(super) fn linear(from: f64, to: f64) -> Axis {
        let sound = from.is_finite() && to.is_finite() && to > from;
        if sound { Axis { from, to, log: false } } else { Axis { from: 0.0, to: 1.0, log: false } }
    }

    /// Between two values above 0, widened to whole decades.
    pub(super) fn log(from: f64, to: f64) -> Axis {
        let sound = from > 0.0 && to.is_finite() && to >= from;
        let (from, to) = if sound { (from.log10().floor(), to.log10().ceil()) } else { (-1.0, 1.0) };
        Axis { from: 10f64.powf(from), to: 10f64.powf(to.max(from + 1.0)), log: true }
    }

    /// Where a value lies, 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let place = if self.log {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// Values that get a label.
    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let (from, to) = (self.from.log10().round() as i32, self.to.log10().round() as i32);
            return (from..=to).map(|decade| 10f64.powi(decade)).collect();
        }
        // A step of 1, 2 or 5 times a power of ten, some five of them.
        let rough = (self.to - self.from) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (self.from / step).ceil() as i64;
        let last = (self.to / step + 1e-9).floor() as i64;
        (first..=last).map(|number| number as f64 * step).collect()
    }
}

/// A chart under construction.
#[derive(Debug)]
pub(super) struct Chart {
    x: Axis,
    y: Axis,
    body: String,
    key: Vec<(String, &'static str)>,
}

impl Chart {
    /// Axes with their grid and labels.
    pub(super) fn new(x: Axis, y: Axis, label_x: &dyn Fn(f64) -> String, label_y: &dyn Fn(f64) -> String) -> Chart {
        let mut chart = Chart { x, y, body: String::new(), key: Vec::new() };
        for tick in x.ticks() {
            let at = chart.px(tick);
            let (top, floor) = (MARGIN, HEIGHT - BOTTOM);
            let _ = write!(
                chart.body,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{floor}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - 8.0,
                escape(&label_x(tick))
            );
        }
        for tick in y.ticks() {
            let at = chart.py(tick);
            let _ = write!(
                chart.body,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - MARGIN,
                LEFT - 4.0,
                at + 4.0,
                escape(&label_y(tick))
            );
        }
        chart
    }

    fn px(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - MARGIN - 12.0)
    }

    fn py(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - BOTTOM - MARGIN)
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if at == 0 { 'M' } else { 'L' }, self.px(*x), self.py(*y));
        }
        path
    }

    /// Explains a colour below the chart.
    pub(super) fn name(&mut self, name: &str, colour: &'static str) {
        self.key.push((name.to_owned(), colour));
    }

    /// A line through points.
    pub(super) fn line(&mut self, points: &[(f64, f64)], colour: &'static str) {
        let path = self.path(points);
        let _ = write!(self.body, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"/>");
    }

    /// The area between two lines over the same x.
    pub(super) fn area(&mut self, low: &[(f64, f64)], high: &[(f64, f64)], colour: &'static str) {
        let outline: Vec<(f64, f64)> = high.iter().chain(low.iter().rev()).copied().collect();
        let path = self.path(&outline);
        let _ = write!(self.body, "<path d=\"{path}Z\" fill=\"{colour}\" fill-opacity=\"0.85\"/>");
    }

    /// Small squares.
    pub(super) fn dots(&mut self, points: impl Iterator<Item = (f64, f64)>, colour: &'static str) {
        let mut path = String::new();
        for (x, y) in points {
            let _ = write!(path, "M{:.1} {:.1}h1.6v1.6h-1.6z", self.px(x) - 0.8, self.py(y) - 0.8);
        }
        let _ = write!(self.body, "<path d=\"{path}\" fill=\"{colour}\" fill-opacity=\"0.8\"/>");
    }

    /// A bar from 0 to `value` across, between two places up.
    pub(super) fn bar(&mut self, value: f64, from_y: f64, to_y: f64, colour: &'static str) {
        let (zero, end) = (self.px(0.0), self.px(value));
        let (top, height) = (self.py(to_y), self.py(from_y) - self.py(to_y));
        let (left, width) = (zero.min(end), (zero - end).abs().max(0.5));
        let _ = write!(
            self.body,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        );
    }

    /// Text that begins at a point and can be read on any mark.
    pub(super) fn label(&mut self, x: f64, y: f64, text: &str) {
        let (x, y) = (self.px(x), self.py(y) + 4.0);
        let _ = write!(self.body, "<text class=\"on\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(text));
    }

    /// The finished chart with its key.
    pub(super) fn finish(self, what: &str) -> String {
        let floor = HEIGHT - BOTTOM;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">{}\
             <path class=\"axis\" fill=\"none\" d=\"M{LEFT} {MARGIN}V{floor}H{}\"/></svg>",
            escape(what),
            self.body,
            WIDTH - MARGIN
        );
        if !self.key.is_empty() {
            svg.push_str("<ul class=\"key\">");
            for (name, colour) in &self.key {
                let _ = write!(svg, "<li><span style=\"background:{colour}\"></span>{}</li>", escape(name));
            }
            svg.push_str("</ul>");
        }
        svg
    }
}

/// Text that cannot become markup, in elements and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Three digits with their unit; a dash where nothing was measured.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s.is_nan() => "–".to_owned(),
        s if s >= 99.95 => format!("{s:.0} s"),
        s if s >= 9.995 => format!("{s:.1} s"),
        s if s >= 0.9995 => format!("{s:.2} s"),
        s if s >= 0.09995 => format!("{:.0} ms", s * 1e3),
        s => format!("{:.1} ms", s * 1e3),
    }
}

/// A value of a decade with its unit.
pub(super) fn decade(seconds: f64) -> String {
    match seconds {
        s if s >= 0.999 => format!("{s:.0} s"),
        s if s >= 0.000_999 => format!("{:.0} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_place_values_and_never_leave_the_chart() {
        let log = Axis::log(0.02, 30.0);
        assert_eq!(log.ticks(), [0.01, 0.1, 1.0, 10.0, 100.0]);
        assert!((log.place(1.0) - 0.5).abs() < 1e-9 && log.place(0.0) == 0.0 && log.place(1e9) == 1.0);
        let linear = Axis::linear(-1.0, 9.0);
        assert_eq!(linear.ticks(), [0.0, 2.0, 4.0, 6.0, 8.0]);
        for odd in [Axis::log(f64::NAN, 1.0), Axis::log(0.0, 0.0), Axis::linear(1.0, 1.0), Axis::linear(0.0, f64::NAN)]
        {
            assert!(odd.place(f64::NAN).is_finite() && !odd.ticks().is_empty(), "{odd:?}");
        }
    }
}
