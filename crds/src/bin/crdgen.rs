//! Writes the CRDs to the folder given, or to standard output.
use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).map(std::path::PathBuf::from);
    for (name, text) in quorate_crds::crd_documents()? {
        match &folder {
            Some(folder) => std::fs::write(folder.join(name), text)?,
            None => writeln!(std::io::stdout(), "---\n{text}")?,
        }
    }
    Ok(())
}
