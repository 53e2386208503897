//! `crdgen FOLDER REFERENCE` writes the CRDs to the folder and the API reference to the file.
//! Without arguments the CRDs go to standard output.
use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(std::path::PathBuf::from);
    let (folder, reference) = (arguments.next(), arguments.next());
    for (name, text) in quorate_crds::crd_documents()? {
        match &folder {
            Some(folder) => std::fs::write(folder.join(name), text)?,
            None => writeln!(std::io::stdout(), "---\n{text}")?,
        }
    }
    if let Some(file) = reference {
        std::fs::write(file, quorate_crds::api_reference())?;
    }
    Ok(())
}
