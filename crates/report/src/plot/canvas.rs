//! A drawing as a list of shapes, from which SVG, PNG and PDF are made alike. Lengths are points, 1/72 of an inch; x
//! goes to the right and y down.

use super::font;

/// Width of a picture: that of a text block of A4 or letter paper, 170 mm.
const PICTURE: f64 = 170.0 / 25.4 * 72.0;
/// Room around what is drawn.
pub(super) const MARGIN: f64 = 4.0;
/// Width that can be drawn on.
pub(super) const WIDTH: f64 = PICTURE - 2.0 * MARGIN;

/// A point of the drawing.
pub(super) type Xy = (f64, f64);

/// An opaque or translucent colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Colour {
    /// Red, green and blue.
    pub(super) rgb: [u8; 3],
    /// Percent of opacity.
    pub(super) opacity: u8,
}

impl Colour {
    pub(super) const fn new(red: u8, green: u8, blue: u8) -> Self {
        Self { rgb: [red, green, blue], opacity: 100 }
    }

    pub(super) const fn faint(self, opacity: u8) -> Self {
        Self { opacity, ..self }
    }
}

/// Where a text's place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// A line through points.
    Line { points: Vec<Xy>, width: f64, colour: Colour, dashed: bool },
    /// A filled polygon.
    Area { points: Vec<Xy>, colour: Colour },
    /// A line of text; `at` is on its baseline.
    Text { text: String, at: Xy, size: f64, anchor: Anchor, upwards: bool, colour: Colour },
}

/// A drawing of width [`WIDTH`].
#[derive(Clone, Debug, Default)]
pub(super) struct Canvas {
    /// Without the margins.
    pub(super) height: f64,
    pub(super) shapes: Vec<Shape>,
}

impl Canvas {
    /// Width and height of the picture.
    pub(super) fn size(&self) -> Xy {
        (PICTURE, self.height + 2.0 * MARGIN)
    }

    pub(super) fn line(&mut self, points: Vec<Xy>, width: f64, colour: Colour) {
        if points.len() > 1 {
            self.shapes.push(Shape::Line { points, width, colour, dashed: false });
        }
    }

    pub(super) fn dashed(&mut self, points: Vec<Xy>, width: f64, colour: Colour) {
        if points.len() > 1 {
            self.shapes.push(Shape::Line { points, width, colour, dashed: true });
        }
    }

    pub(super) fn area(&mut self, points: Vec<Xy>, colour: Colour) {
        if points.len() > 2 {
            self.shapes.push(Shape::Area { points, colour });
        }
    }

    pub(super) fn rectangle(&mut self, (left, top): Xy, (width, height): Xy, colour: Colour) {
        let (right, bottom) = (left + width, top + height);
        self.area(vec![(left, top), (right, top), (right, bottom), (left, bottom)], colour);
    }

    pub(super) fn text(&mut self, text: &str, at: Xy, size: f64, anchor: Anchor, colour: Colour) {
        self.push_text(text, at, size, anchor, colour, false);
    }

    /// Text that is read from below.
    pub(super) fn text_upwards(&mut self, text: &str, at: Xy, size: f64, colour: Colour) {
        self.push_text(text, at, size, Anchor::Middle, colour, true);
    }

    fn push_text(&mut self, text: &str, at: Xy, size: f64, anchor: Anchor, colour: Colour, upwards: bool) {
        let text = font::printable(text);
        if !text.is_empty() {
            self.shapes.push(Shape::Text { text, at, size, anchor, upwards, colour });
        }
    }

    /// Text from `top` on, in lines that are no wider than `width`; the height that it took.
    pub(super) fn paragraph(
        &mut self,
        text: &str,
        (left, top): Xy,
        width: f64,
        size: f64,
        colour: Colour,
    ) -> f64 {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            match lines.last_mut() {
                Some(line) if font::width(&format!("{line} {word}"), size) <= width => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        let leading = 1.35 * size;
        for (i, line) in lines.iter().enumerate() {
            self.text(line, (left, top + leading * i as f64 + size), size, Anchor::Start, colour);
        }
        leading * lines.len() as f64
    }
}
