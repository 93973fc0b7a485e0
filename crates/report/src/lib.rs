pub struct Report { pub text: String }
pub fn report(_dir: &std::path::Path) -> Result<Report, peftlab_record::RecordError> { Ok(Report { text: String::new() }) }
