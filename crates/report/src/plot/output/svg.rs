//! SVG. Text stays text; its length is given, so that another font in the place of ours moves nothing.

use std::fmt::Write;

use crate::plot::canvas::{Anchor, Canvas, Colour, MARGIN, Shape, Xy};
use crate::plot::font;

/// The drawing as SVG.
pub(super) fn encode(canvas: &Canvas) -> Result<Vec<u8>, String> {
    let mut out = String::new();
    let (width, height) = canvas.size();
    let (width, height, margin) = (number(width), number(height), number(-MARGIN));
    // writing into a string does not fail
    let _ = writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}pt" height="{height}pt" viewBox="{margin} {margin} {width} {height}" font-family="{}">"#,
        font::NAMES
    );
    let _ = writeln!(
        out,
        r##"<rect x="{margin}" y="{margin}" width="{width}" height="{height}" fill="#ffffff"/>"##
    );
    for shape in &canvas.shapes {
        let _ = match shape {
            Shape::Line { points, width, colour, dashed } => {
                let dash = if *dashed { r#" stroke-dasharray="3 2""# } else { "" };
                writeln!(
                    out,
                    r#"<path d="{}" fill="none" stroke-width="{}" stroke-linejoin="round"{dash}{}/>"#,
                    path(points),
                    number(*width),
                    paint("stroke", *colour)
                )
            }
            Shape::Area { points, colour } => {
                writeln!(out, r#"<path d="{}Z"{}/>"#, path(points), paint("fill", *colour))
            }
            Shape::Text { text, at, size, anchor, upwards, colour } => {
                let (x, y) = (number(at.0), number(at.1));
                let turn =
                    if *upwards { format!(r#" transform="rotate(-90 {x} {y})""#) } else { String::new() };
                let anchor = match anchor {
                    Anchor::Start => "start",
                    Anchor::Middle => "middle",
                    Anchor::End => "end",
                };
                // of letters that the font lacks the width is not known
                let length = if font::complete(text) {
                    let length = number(font::width(text, *size));
                    format!(r#" textLength="{length}" lengthAdjust="spacingAndGlyphs""#)
                } else {
                    String::new()
                };
                writeln!(
                    out,
                    r#"<text x="{x}" y="{y}" font-size="{}" text-anchor="{anchor}"{length}{turn}{}>{}</text>"#,
                    number(*size),
                    paint("fill", *colour),
                    escaped(text)
                )
            }
        };
    }
    out.push_str("</svg>\n");
    Ok(out.into_bytes())
}

/// A hundredth of a point is finer than any printer.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn path(points: &[Xy]) -> String {
    let mut out = String::new();
    for (i, (x, y)) in points.iter().enumerate() {
        let _ = write!(out, "{}{} {}", if i == 0 { 'M' } else { 'L' }, number(*x), number(*y));
    }
    out
}

fn paint(what: &str, Colour { rgb: [r, g, b], opacity }: Colour) -> String {
    let mut out = format!(r##" {what}="#{r:02x}{g:02x}{b:02x}""##);
    if opacity < 100 {
        let _ = write!(out, r#" {what}-opacity="{}""#, number(f64::from(opacity) / 100.0));
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_kept_with_its_blanks_and_width() {
        let mut canvas = Canvas { height: 20.0, ..Canvas::default() };
        canvas.text("lora r=8 <q&v>", (1.0, 10.0), 7.0, Anchor::Start, Colour::new(0, 0, 0));
        let svg = String::from_utf8(encode(&canvas).unwrap()).unwrap();
        assert!(svg.contains(">lora r=8 &lt;q&amp;v&gt;</text>"), "{svg}");
        let length = number(font::width("lora r=8 <q&v>", 7.0));
        assert!(svg.contains(&format!("textLength=\"{length}\"")) && svg.contains("Verdana"), "{svg}");
    }
}
