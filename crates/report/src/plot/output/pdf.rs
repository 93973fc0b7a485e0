//! PDF of one page. Text is text, in a font of which the glyphs that occur are embedded.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use pdf_writer::types::{CidFontType, FontFlags, LineJoinStyle, SystemInfo, UnicodeCmap};
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect, Ref, Str};
use subsetter::GlyphRemapper;

use crate::plot::canvas::{Anchor, Canvas, Colour, MARGIN, Shape, Xy};
use crate::plot::font;

const FONT: Name<'static> = Name(b"F");
const NAME: Name<'static> = Name(b"AAAAAA+DejaVuSans");
const SYSTEM: SystemInfo<'static> =
    SystemInfo { registry: Str(b"Adobe"), ordering: Str(b"Identity"), supplement: 0 };

const CATALOG: Ref = Ref::new(1);
const PAGES: Ref = Ref::new(2);
const PAGE: Ref = Ref::new(3);
const CONTENT: Ref = Ref::new(4);
const TYPE0: Ref = Ref::new(5);
const CID: Ref = Ref::new(6);
const DESCRIPTOR: Ref = Ref::new(7);
const CMAP: Ref = Ref::new(8);
const DATA: Ref = Ref::new(9);

/// The drawing as PDF.
pub(super) fn encode(canvas: &Canvas) -> Result<Vec<u8>, String> {
    let mut glyphs = Glyphs { places: GlyphRemapper::new(), letters: BTreeMap::new() };
    let mut opacities = BTreeSet::new();
    let content = content(canvas, &mut glyphs, &mut opacities);
    let (width, height) = canvas.size();
    let mut pdf = Pdf::new();
    pdf.catalog(CATALOG).pages(PAGES);
    pdf.pages(PAGES).kids([PAGE]).count(1);
    let mut page = pdf.page(PAGE);
    page.media_box(Rect::new(0.0, 0.0, width as f32, height as f32)).parent(PAGES).contents(CONTENT);
    let mut resources = page.resources();
    resources.fonts().pair(FONT, TYPE0);
    let mut states = resources.ext_g_states();
    for opacity in opacities {
        let share = f32::from(opacity) / 100.0;
        let name = state(opacity);
        states
            .insert(Name(name.as_bytes()))
            .start::<pdf_writer::writers::ExtGraphicsState<'_>>()
            .stroking_alpha(share)
            .non_stroking_alpha(share);
    }
    states.finish();
    resources.finish();
    page.finish();
    pdf.stream(CONTENT, &deflated(&content)?).filter(Filter::FlateDecode);
    glyphs.embed(&mut pdf)?;
    Ok(pdf.finish())
}

/// The glyphs that a drawing needs.
struct Glyphs {
    /// By their places in the embedded font.
    places: GlyphRemapper,
    letters: BTreeMap<u16, char>,
}

impl Glyphs {
    /// A text as the embedded font has it.
    fn encoded(&mut self, text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for letter in text.chars() {
            let place = self.places.remap(font::glyph(letter).0);
            if place > 0 {
                self.letters.entry(place).or_insert(letter);
            }
            bytes.extend(place.to_be_bytes());
        }
        bytes
    }

    fn embed(&self, pdf: &mut Pdf) -> Result<(), String> {
        let face = font::face();
        let units = |value: i16| f32::from(value) * 1000.0 / f32::from(face.units_per_em());
        pdf.type0_font(TYPE0)
            .base_font(NAME)
            .encoding_predefined(Name(b"Identity-H"))
            .descendant_font(CID)
            .to_unicode(CMAP);
        let mut cid = pdf.cid_font(CID);
        cid.subtype(CidFontType::Type2).base_font(NAME).system_info(SYSTEM).font_descriptor(DESCRIPTOR);
        cid.default_width(0.0).cid_to_gid_map_predefined(Name(b"Identity"));
        let width = |glyph| (1000.0 * font::advance(ttf_parser::GlyphId(glyph))) as f32;
        cid.widths().consecutive(0, self.places.remapped_gids().map(width));
        cid.finish();
        let bounds = face.global_bounding_box();
        pdf.font_descriptor(DESCRIPTOR)
            .name(NAME)
            .flags(FontFlags::NON_SYMBOLIC)
            .bbox(Rect::new(
                units(bounds.x_min),
                units(bounds.y_min),
                units(bounds.x_max),
                units(bounds.y_max),
            ))
            .italic_angle(0.0)
            .ascent(units(face.ascender()))
            .descent(units(face.descender()))
            .cap_height(units(face.capital_height().unwrap_or(face.ascender())))
            .stem_v(80.0)
            .font_file2(DATA);
        let mut map = UnicodeCmap::new(Name(b"Custom"), SYSTEM);
        for (place, letter) in &self.letters {
            map.pair(*place, *letter);
        }
        pdf.cmap(CMAP, &map.finish());
        let data = subsetter::subset(font::BYTES, 0, &self.places).map_err(|error| error.to_string())?;
        pdf.stream(DATA, &deflated(&data)?).filter(Filter::FlateDecode);
        Ok(())
    }
}

fn deflated(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(|error| error.to_string())
}

/// The name of the state in which is drawn with an opacity.
fn state(opacity: u8) -> String {
    format!("O{opacity}")
}

fn content(canvas: &Canvas, glyphs: &mut Glyphs, opacities: &mut BTreeSet<u8>) -> Vec<u8> {
    let mut content = Content::new();
    // y goes up in PDF
    let at = |(x, y): Xy| ((MARGIN + x) as f32, (MARGIN + canvas.height - y) as f32);
    content.set_line_join(LineJoinStyle::RoundJoin);
    for shape in &canvas.shapes {
        let (Shape::Line { colour, .. } | Shape::Area { colour, .. } | Shape::Text { colour, .. }) = shape;
        let Colour { rgb, opacity } = *colour;
        let [r, g, b] = rgb.map(|part| f32::from(part) / 255.0);
        opacities.insert(opacity);
        content.set_parameters(Name(state(opacity).as_bytes()));
        match shape {
            Shape::Line { points, width, dashed, .. } => {
                content.set_stroke_rgb(r, g, b).set_line_width(*width as f32);
                content.set_dash_pattern(if *dashed { [3.0, 2.0].to_vec() } else { Vec::new() }, 0.0);
                trace(&mut content, points.iter().map(|point| at(*point)));
                content.stroke();
            }
            Shape::Area { points, .. } => {
                content.set_fill_rgb(r, g, b);
                trace(&mut content, points.iter().map(|point| at(*point)));
                content.close_path().fill_nonzero();
            }
            Shape::Text { text, at: place, size, anchor, upwards, .. } => {
                let back = match anchor {
                    Anchor::Start => 0.0,
                    Anchor::Middle => font::width(text, *size) / 2.0,
                    Anchor::End => font::width(text, *size),
                };
                let matrix = if *upwards {
                    let (x, y) = at((place.0, place.1 + back));
                    [0.0, 1.0, -1.0, 0.0, x, y]
                } else {
                    let (x, y) = at((place.0 - back, place.1));
                    [1.0, 0.0, 0.0, 1.0, x, y]
                };
                content.set_fill_rgb(r, g, b);
                content.begin_text().set_font(FONT, *size as f32).set_text_matrix(matrix);
                content.show(Str(&glyphs.encoded(text)));
                content.end_text();
            }
        }
    }
    content.finish().into_vec()
}

fn trace(content: &mut Content, points: impl Iterator<Item = (f32, f32)>) {
    for (i, (x, y)) in points.enumerate() {
        match i {
            0 => content.move_to(x, y),
            _ => content.line_to(x, y),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_embedded_is_small_and_the_same_every_time() {
        let mut canvas = Canvas { height: 20.0, ..Canvas::default() };
        canvas.text("lora r=8 λ 中", (1.0, 10.0), 7.0, Anchor::Start, Colour::new(0, 0, 0).faint(50));
        let bytes = encode(&canvas).unwrap();
        assert!(bytes.starts_with(b"%PDF-") && bytes.len() < 20_000, "{}", bytes.len());
        assert_eq!(bytes, encode(&canvas).unwrap());
        let holds = |what: &[u8]| bytes.windows(what.len()).any(|part| part == what);
        assert!(holds(b"/FontFile2") && holds(b"/ToUnicode") && holds(b"/ca 0.5"));
    }
}
