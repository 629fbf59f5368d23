//! What a node has of the central configuration on its disk: the record of the generation that it took last, and the
//! components that it names. Each file is written beside its name and put in its place when it is whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{info, warn};

use super::record::{Component, Record};
use crate::{
    app::components::on_spare_thread,
    config::{self, Config, Generation},
    plugin::COMPONENT_BYTES_MAX,
};

/// Bytes of a record that are read.
const RECORD_BYTES_MAX: u64 = 4 << 20;

/// The directory of it.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    dir: PathBuf,
}

impl Saved {
    pub(super) const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn record(&self) -> PathBuf {
        self.dir.join("generation.json")
    }

    fn components(&self) -> PathBuf {
        self.dir.join("components")
    }

    fn component(&self, digest: &str) -> PathBuf {
        self.components().join(format!("{digest}.wasm"))
    }

    /// Returns a generation with the files of its components.
    pub(super) fn generation(&self, record: &Record, bytes: &[u8]) -> Generation {
        let files = record.components.iter();
        let files: BTreeMap<String, PathBuf> =
            files.map(|(policy, component)| (policy.clone(), self.component(&component.digest))).collect();
        let digest = blake3::hash(bytes).to_hex().to_string();
        let text = record.text.clone();
        Generation { number: record.generation, digest, text, components: files, record: bytes.into() }
    }

    /// Returns the last generation that the node took; `None` if it has taken none.
    ///
    /// # Errors
    /// It can't be read, or isn't understood, or a component is another one than it was.
    fn load(&self) -> io::Result<Option<Generation>> {
        let bytes = match read(&self.record(), RECORD_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let record = Record::decode(&bytes).map_err(io::Error::other)?;
        for component in record.components.values() {
            if !self.has(component) {
                return Err(io::Error::other(format!("the component {} isn't there", component.digest)));
            }
        }
        Ok(Some(self.generation(&record, &bytes)))
    }

    /// Whether the component is there, as a whole.
    pub(super) fn has(&self, component: &Component) -> bool {
        let bytes = read(&self.component(&component.digest), COMPONENT_BYTES_MAX);
        bytes.is_ok_and(|bytes| blake3::hash(&bytes).to_hex().as_str() == component.digest)
    }

    /// Writes a component.
    pub(super) fn put(&self, component: &Component, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(self.components())?;
        replace(&self.component(&component.digest), bytes)
    }

    /// Writes the record of the generation that the node has taken, or deletes it if it runs by its own file alone. Then
    /// deletes the components that neither this generation nor that of `former` names.
    pub(super) fn keep(&self, taken: Option<&Generation>, former: Option<&Generation>) -> io::Result<()> {
        match taken {
            Some(generation) => {
                fs::create_dir_all(&self.dir)?;
                replace(&self.record(), &generation.record)?;
            }
            None => match fs::remove_file(self.record()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
        let named: BTreeSet<&PathBuf> =
            [taken, former].into_iter().flatten().flat_map(|generation| generation.components.values()).collect();
        let Ok(listed) = fs::read_dir(self.components()) else { return Ok(()) };
        for file in listed.flatten().map(|entry| entry.path()).filter(|file| !named.contains(file)) {
            // It is deleted the next time otherwise.
            let _ = fs::remove_file(file);
        }
        Ok(())
    }
}

fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    config::open_file(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is too long", path.display())));
    }
    Ok(bytes)
}

/// Puts a file in the place of another, as a whole, so that it is there after a failure of the power as well.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("part");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Returns the configuration with the generation that the node took last, so that a node which starts without etcd runs by
/// it. One that can't be used is reported, and the node starts by its own file.
pub(in crate::app) async fn resumed(config: Config) -> Config {
    let (None, Some(central), Some(file)) = (&config.generation, &config.central, &config.file) else {
        return config;
    };
    let (saved, file, running) = (Saved::new(central.dir.clone()), file.clone(), config.clone());
    let resumed = on_spare_thread(move || {
        let Some(generation) = saved.load().map_err(|error| error.to_string())? else { return Ok(None) };
        let loaded = config::load_with(&file, Some(&Arc::new(generation)), &running);
        loaded.map(Some).map_err(|error| error.to_string())
    });
    let resumed: Result<Option<Config>, String> = resumed.await;
    match resumed {
        Ok(None) => config,
        Ok(Some(resumed)) => {
            let number = resumed.generation.as_ref().map_or(0, |generation| generation.number);
            info!(generation = number, "starting with the last generation of the central configuration");
            resumed
        }
        Err(error) => {
            warn!(%error, "the last generation of the central configuration can't be used; starting by the own file");
            config
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn record(number: u64, component: &Component) -> Record {
        Record {
            format: super::super::record::FORMAT,
            generation: number,
            pushed: Timestamp(1),
            text: "[pool.web]".to_owned(),
            components: BTreeMap::from([("p".to_owned(), component.clone())]),
        }
    }

    fn component(bytes: &[u8]) -> Component {
        Component { digest: blake3::hash(bytes).to_hex().to_string(), bytes: bytes.len() as u64 }
    }

    #[test]
    fn a_generation_is_there_as_a_whole_with_its_components_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let saved = Saved::new(dir.path().join("state"));
        assert_eq!(saved.load().unwrap(), None, "none was taken");
        let (one, other) = (component(b"one"), component(b"other"));
        let mut former = None;
        for (number, component, bytes) in [(1, &one, &b"one"[..]), (2, &other, b"other")] {
            saved.put(component, bytes).unwrap();
            assert!(saved.has(component));
            let record = record(number, component);
            let encoded = record.encode().unwrap();
            let generation = saved.generation(&record, &encoded);
            saved.keep(Some(&generation), former.as_ref()).unwrap();
            assert_eq!(saved.load().unwrap().as_ref(), Some(&generation));
            former = Some(generation);
        }
        assert!(saved.has(&one), "that of the generation before is there to go back to");
        let last = saved.load().unwrap();
        saved.keep(last.as_ref(), None).unwrap();
        assert!(saved.has(&other) && !saved.has(&one), "nothing names it any more");
        fs::write(saved.component(&other.digest), "another").unwrap();
        assert!(saved.load().unwrap_err().to_string().contains(&other.digest));
        fs::write(saved.record(), "{").unwrap();
        assert!(saved.load().unwrap_err().to_string().contains("is wrong"));
        saved.keep(None, None).unwrap();
        assert_eq!(saved.load().unwrap(), None);
    }
}
