//! The files that a configuration needs.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{Certificate, Config, PolicySource};

impl Config {
    /// Returns the files that must be there when the node starts: certificates and their keys, authorities, the admin
    /// API's token, components of policies.
    pub(super) fn needed_files(&self) -> BTreeSet<&Path> {
        let mut files = BTreeSet::new();
        let admin = self.admin.as_ref();
        let listeners = self.listen.iter().filter_map(|listen| listen.tls.as_ref());
        for tls in listeners.chain(admin.and_then(|admin| admin.tls.as_ref())) {
            files.extend(tls.client_ca.as_deref());
            for certificate in &tls.certificates {
                if let Certificate::Files { pair, .. } = certificate {
                    files.extend([pair.certificate.as_path(), pair.key.as_path()]);
                }
            }
        }
        files.extend(admin.and_then(|admin| admin.token_file.as_deref()));
        for pool in self.pools.values() {
            files.extend(pool.tls.ca.as_deref());
            files.extend(pool.tls.client.iter().flat_map(|pair| [pair.certificate.as_path(), pair.key.as_path()]));
        }
        for policy in self.policies.values() {
            if let PolicySource::File(file) = &policy.source {
                files.insert(file.as_path());
            }
        }
        files
    }

    /// Returns those of them that are gone by now. The node runs by what it read of them; it wouldn't start.
    #[must_use]
    pub fn files_gone(&self) -> Vec<PathBuf> {
        let gone = self.needed_files().into_iter().filter(|file| !file.exists());
        gone.map(Path::to_owned).collect()
    }
}
