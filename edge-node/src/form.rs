//! Writes multipart/form-data (RFC 7578): what an upload sends, and what a download of it answers.

/// A form that grows part by part.
pub(crate) struct Form {
    boundary: String,
    bytes: Vec<u8>,
}

impl Form {
    /// An empty form. Its boundary is random, so that no part can hold it on purpose.
    pub(crate) fn new() -> Self {
        Self { boundary: format!("atoll-{:032x}", rand::random::<u128>()), bytes: Vec::new() }
    }

    /// Adds a plain field.
    pub(crate) fn field(&mut self, name: &str, value: &[u8]) {
        self.part(&format!("name=\"{}\"", quoted(name)), value);
    }

    /// Adds a file, named as its field.
    pub(crate) fn file(&mut self, name: &str, content_type: &str, bytes: &[u8]) {
        let name = quoted(name);
        let head = format!("name=\"{name}\"; filename=\"{name}\"\r\nContent-Type: {content_type}");
        self.part(&head, bytes);
    }

    /// The form's content type and its bytes.
    pub(crate) fn finish(mut self) -> (String, Vec<u8>) {
        self.bytes.extend_from_slice(format!("--{}--\r\n", self.boundary).as_bytes());
        (format!("multipart/form-data; boundary={}", self.boundary), self.bytes)
    }

    fn part(&mut self, head: &str, bytes: &[u8]) {
        let boundary = &self.boundary;
        let head = format!("--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n");
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }
}

/// A name within quotes (WHATWG HTML, multipart/form-data encoding).
fn quoted(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}
