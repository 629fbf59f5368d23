//! What a manifest names (the OCI image specification, "Image Manifest").

use serde::{Deserialize, de::IgnoredAny};

use super::{error::Error, reference::Digest};

/// The types of layers that are components.
const COMPONENTS: [&str; 2] = ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"];

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
    /// Those of an index.
    #[serde(default)]
    manifests: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    size: u64,
}

/// A blob of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    /// Its length.
    pub(super) bytes: u64,
}

/// Returns the one component that a manifest names.
///
/// # Errors
/// [`Error::Manifest`]: it names none, or several, or one of more than `bytes_max` bytes.
pub(super) fn component(manifest: &[u8], bytes_max: u64) -> Result<Blob, Error> {
    let refused = |reason: String| Err(Error::Manifest(reason));
    let manifest: Manifest = match serde_json::from_slice(manifest) {
        Ok(manifest) => manifest,
        Err(error) => return refused(error.to_string()),
    };
    if !manifest.manifests.is_empty() {
        return refused("it is an index of others; name one of these by its digest".to_owned());
    }
    let mut components = manifest.layers.iter().filter(|layer| COMPONENTS.contains(&layer.media_type.as_str()));
    let (Some(layer), None) = (components.next(), components.next()) else {
        return refused(format!("it doesn't have one layer of type {}", COMPONENTS.join(" or ")));
    };
    if layer.size > bytes_max {
        return refused(format!("the component has {} bytes; allowed are up to {bytes_max}", layer.size));
    }
    match Digest::parse(&layer.digest) {
        Some(digest) => Ok(Blob { digest, bytes: layer.size }),
        // It is shown on a terminal.
        None => refused(format!("`{}` is no sha256", layer.digest.escape_debug())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_one_component_of_a_manifest_is_found() {
        let digest = Digest::of(b"x");
        let layer =
            |media_type: &str, size: u64| json!({"mediaType": media_type, "digest": digest.to_string(), "size": size});
        let read = |value: &serde_json::Value| component(value.to_string().as_bytes(), 9);
        let wasm = layer(COMPONENTS[0], 9);
        for layers in [json!([wasm]), json!([layer("text/plain", 1), layer(COMPONENTS[1], 9)])] {
            let found = read(&json!({"schemaVersion": 2, "config": {}, "layers": layers}));
            assert_eq!(found.unwrap(), Blob { digest: digest.clone(), bytes: 9 }, "{layers}");
        }
        for (manifest, reason) in [
            (json!({"layers": []}), "one layer"),
            (json!({}), "one layer"),
            (json!({"layers": [wasm, wasm]}), "one layer"),
            (json!({"layers": [layer("application/gzip", 1)]}), "one layer"),
            (json!({"layers": [layer(COMPONENTS[0], 10)]}), "10 bytes"),
            (json!({"layers": [{"mediaType": "application/wasm", "digest": "sha512:x", "size": 1}]}), "no sha256"),
            (json!({"layers": [{"mediaType": "application/wasm", "digest": "x", "size": -1}]}), "can't be used"),
            (json!({"layers": [{"mediaType": "application/wasm", "digest": "\u{1b}[2J", "size": 1}]}), "`\\u{1b}[2J`"),
            (json!({"manifests": [{}]}), "an index"),
            (json!("x"), "invalid type"),
        ] {
            let refused = read(&manifest).unwrap_err().to_string();
            assert!(refused.contains(reason) && !refused.contains(char::is_control), "{manifest}: {refused:?}");
        }
    }
}
