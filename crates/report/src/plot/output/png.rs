//! PNG of 300 dots an inch. The outlines of letters are drawn like any other shape, each where the one before it ends.

use tiny_skia::{FillRule, LineJoin, Paint, Path, PathBuilder, Pixmap, Stroke, StrokeDash, Transform};
use ttf_parser::OutlineBuilder;

use crate::plot::canvas::{Anchor, Canvas, Colour, MARGIN, Shape, Xy};
use crate::plot::font;

/// Dots an inch: what printers ask for.
const DPI: f64 = 300.0;
/// Pixels at most, 160 MB while it is drawn: a picture of hundreds of rows has fewer dots an inch.
const PIXELS: f64 = 4e7;

/// The drawing as PNG; its size on paper is said in it.
pub(super) fn encode(canvas: &Canvas) -> Result<Vec<u8>, String> {
    let size = canvas.size();
    let scale = (DPI / 72.0).min((PIXELS / (size.0 * size.1)).sqrt());
    let pixels = |points: f64| (points * scale).ceil() as u32;
    let mut map = Pixmap::new(pixels(size.0), pixels(size.1)).ok_or("it is too large for a PNG")?;
    map.fill(tiny_skia::Color::WHITE);
    let scaled =
        Transform::from_scale(scale as f32, scale as f32).pre_translate(MARGIN as f32, MARGIN as f32);
    for shape in &canvas.shapes {
        match shape {
            Shape::Line { points, width, colour, dashed } => {
                let Some(path) = path(points, false) else { continue };
                let dash = if *dashed { StrokeDash::new(vec![3.0, 2.0], 0.0) } else { None };
                let stroke =
                    Stroke { width: *width as f32, line_join: LineJoin::Round, dash, ..Stroke::default() };
                map.stroke_path(&path, &paint(*colour), &stroke, scaled, None);
            }
            Shape::Area { points, colour } => {
                let Some(path) = path(points, true) else { continue };
                map.fill_path(&path, &paint(*colour), FillRule::Winding, scaled, None);
            }
            Shape::Text { text, at, size, anchor, upwards, colour } => {
                let Some(path) = outlines(text) else { continue };
                let start = match anchor {
                    Anchor::Start => 0.0,
                    Anchor::Middle => -font::width(text, *size) / 2.0,
                    Anchor::End => -font::width(text, *size),
                };
                let turned = scaled
                    .pre_translate(at.0 as f32, at.1 as f32)
                    .pre_concat(Transform::from_rotate(if *upwards { -90.0 } else { 0.0 }))
                    .pre_translate(start as f32, 0.0)
                    .pre_scale(*size as f32, *size as f32);
                map.fill_path(&path, &paint(*colour), FillRule::Winding, turned, None);
            }
        }
    }
    compressed(&map, 72.0 * scale)
}

fn compressed(map: &Pixmap, dpi: f64) -> Result<Vec<u8>, String> {
    // the background is opaque, and so is all that is drawn on it
    let rgb: Vec<u8> = map.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, map.width(), map.height());
    encoder.set_color(png::ColorType::Rgb);
    let metre = (dpi / 0.0254).round() as u32;
    let size = png::PixelDimensions { xppu: metre, yppu: metre, unit: png::Unit::Meter };
    encoder.set_pixel_dims(Some(size));
    // of pictures that are mostly white this makes the smallest files, in half of the default's time
    encoder.set_filter(png::Filter::NoFilter);
    encoder.set_deflate_compression(png::DeflateCompression::Level(3));
    let mut writer = encoder.write_header().map_err(|error| error.to_string())?;
    writer.write_image_data(&rgb).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn paint(Colour { rgb: [r, g, b], opacity }: Colour) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color_rgba8(r, g, b, (f64::from(opacity) * 2.55).round() as u8);
    paint
}

fn path(points: &[Xy], closed: bool) -> Option<Path> {
    let mut builder = PathBuilder::new();
    for (i, (x, y)) in points.iter().enumerate() {
        match i {
            0 => builder.move_to(*x as f32, *y as f32),
            _ => builder.line_to(*x as f32, *y as f32),
        }
    }
    if closed {
        builder.close();
    }
    builder.finish()
}

/// A line of text of size 1 from the origin on.
fn outlines(text: &str) -> Option<Path> {
    let mut pen = Pen { path: PathBuilder::new(), x: 0.0, em: f32::from(font::face().units_per_em()) };
    for letter in text.chars() {
        let glyph = font::glyph(letter);
        font::face().outline_glyph(glyph, &mut pen);
        pen.x += font::advance(glyph) as f32;
    }
    pen.path.finish()
}

/// Puts outlines of glyphs, in the font's units and with y up, into a path.
struct Pen {
    path: PathBuilder,
    x: f32,
    em: f32,
}

impl Pen {
    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        (self.x + x / self.em, -y / self.em)
    }
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.at(x1, y1), self.at(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) = (self.at(x1, y1), self.at(x2, y2), self.at(x, y));
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_170_mm_wide_at_300_dots_an_inch() {
        let mut canvas = Canvas { height: 20.0, ..Canvas::default() };
        canvas.text("lora r=8", (1.0, 10.0), 7.0, Anchor::Start, Colour::new(0, 0, 0));
        let bytes = encode(&canvas).unwrap();
        let reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let info = reader.info();
        assert_eq!((info.width, info.pixel_dims.unwrap().xppu), (2008, 11811));
        let bytes = encode(&Canvas { height: 20_000.0, ..Canvas::default() }).unwrap();
        let reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let (width, height) = (f64::from(reader.info().width), f64::from(reader.info().height));
        assert!(width * height < 1.01 * PIXELS && (height / width - 20_008.0 / 482.0).abs() < 0.1);
    }

    /// The gap between two words is as wide as the font says, to a pixel; the bitmap backend of plotters, which drops a
    /// glyph's left bearing and rounds each place down, set `lora r=8` without one.
    #[test]
    fn blanks_are_seen() {
        let dark_columns = |text: &str| -> Vec<bool> {
            let mut canvas = Canvas { height: 12.0, ..Canvas::default() };
            canvas.text(text, (1.0, 10.0), 7.0, Anchor::Start, Colour::new(0, 0, 0));
            let bytes = encode(&canvas).unwrap();
            let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut pixels).unwrap();
            (0..2008).map(|x| pixels.chunks(3 * 2008).any(|row| row[3 * x] < 128)).collect()
        };
        let gap = |text: &str| {
            let columns = dark_columns(text);
            let inked = columns.iter().position(|dark| *dark).unwrap()
                ..columns.iter().rposition(|dark| *dark).unwrap();
            columns[inked].split(|dark| *dark).map(<[bool]>::len).max().unwrap() as f64
        };
        let blank = font::width(" ", 7.0) * DPI / 72.0;
        assert!((gap("H H") - gap("HH") - blank).abs() <= 1.0, "{} {} {blank}", gap("H H"), gap("HH"));
    }
}
