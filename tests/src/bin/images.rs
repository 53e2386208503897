//! `make images`.

use quorate_tests::images;

fn main() -> anyhow::Result<()> {
    let mib = |bytes: usize| format!("{:.1} MiB", f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0);
    println!("{:<48} {:>10} {:>10}  archive", "image", "unpacked", "packed");
    for image in images::ours()? {
        let path = image.path.canonicalize()?;
        println!("{:<48} {:>10} {:>10}  {}", image.name, mib(image.unpacked), mib(image.packed), path.display());
    }
    Ok(())
}
