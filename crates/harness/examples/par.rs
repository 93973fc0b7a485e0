fn main() {
    let r = peftlab_peft::Registry::standard();
    for d in peftlab_harness::parity::find(std::path::Path::new(&std::env::args().nth(1).unwrap())).unwrap() {
        match peftlab_harness::parity::check(&d, &r) { Ok(c) => println!("{c}"), Err(e) => println!("ERR {} {e}", d.display()) }
    }
}
