//! AWS signatures, version 4, as Garage's K2V wants them.
//!
//! Promises: the header of a request with an unsigned body, host and date signed,
//! for a path that needs no encoding twice (letters, digits and slashes) and one
//! parameter. The body is left unsigned because that is the cheaper way for
//! Garage, which would otherwise hash each body that it gets. Not promised: any
//! other request.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// What Garage calls itself when nobody says otherwise.
pub const REGION: &str = "garage";
/// Says that the body is not part of the signature.
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const SERVICE: &str = "k2v";
/// `20261122` of `20261122T070809Z`.
const DAY_LETTERS: usize = 8;

/// Signs with one key. Clones are cheap: each connection has its own.
#[derive(Clone)]
pub struct Signer {
    key_id: String,
    secret: String,
    /// The second that `stamp` says.
    second: u64,
    stamp: String,
    scope: String,
    /// Keyed with the key of that day.
    hmac: Hmac<Sha256>,
    canonical: String,
}

impl Signer {
    /// For a key of Garage's.
    pub fn new(key_id: &str, secret: &str) -> anyhow::Result<Signer> {
        let mut signer = Signer {
            key_id: key_id.to_owned(),
            secret: secret.to_owned(),
            second: 0,
            stamp: String::new(),
            scope: String::new(),
            hmac: keyed(b"")?,
            canonical: String::new(),
        };
        signer.wind(SystemTime::now())?;
        Ok(signer)
    }

    /// The key's name.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Appends the headers that sign a request made now.
    pub fn sign(
        &mut self,
        method: &str,
        path: &str,
        query: &str,
        host: &str,
        headers: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        self.wind(SystemTime::now())?;
        self.sign_as_wound(method, path, query, host, headers)
    }

    /// Brings date, scope and key up to a time.
    fn wind(&mut self, now: SystemTime) -> anyhow::Result<()> {
        let second = now.duration_since(UNIX_EPOCH)?.as_secs();
        if second == self.second {
            return Ok(());
        }
        let mut stamp = humantime::format_rfc3339_seconds(now).to_string();
        stamp.retain(|letter| letter != '-' && letter != ':');
        let day = stamp.get(..DAY_LETTERS).context("an odd date")?;
        if self.stamp.get(..DAY_LETTERS) != Some(day) {
            self.scope = format!("{day}/{REGION}/{SERVICE}/aws4_request");
            let mut key = format!("AWS4{}", self.secret).into_bytes();
            for part in [day, REGION, SERVICE, "aws4_request"] {
                key = mac(&keyed(&key)?, part).to_vec();
            }
            self.hmac = keyed(&key)?;
        }
        self.stamp = stamp;
        self.second = second;
        Ok(())
    }

    fn sign_as_wound(
        &mut self,
        method: &str,
        path: &str,
        query: &str,
        host: &str,
        headers: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let stamp = &self.stamp;
        self.canonical.clear();
        write!(
            self.canonical,
            "{method}\n{path}\n{query}\nhost:{host}\nx-amz-date:{stamp}\n\nhost;x-amz-date\n{UNSIGNED}",
        )?;
        let digest = Hex(Sha256::digest(self.canonical.as_bytes()).into());
        let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{}\n{digest}", self.scope);
        let signature = Hex(mac(&self.hmac, &text));
        std::io::Write::write_fmt(
            headers,
            format_args!(
                "x-amz-date: {stamp}\r\nx-amz-content-sha256: {UNSIGNED}\r\n\
                 authorization: AWS4-HMAC-SHA256 Credential={}/{}, \
                 SignedHeaders=host;x-amz-date, Signature={signature}\r\n",
                self.key_id, self.scope,
            ),
        )?;
        Ok(())
    }
}

fn keyed(key: &[u8]) -> anyhow::Result<Hmac<Sha256>> {
    Hmac::new_from_slice(key).context("a key of any length does")
}

fn mac(hmac: &Hmac<Sha256>, text: &str) -> [u8; 32] {
    hmac.clone()
        .chain_update(text.as_bytes())
        .finalize()
        .into_bytes()
        .into()
}

struct Hex([u8; 32]);

impl std::fmt::Display for Hex {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0u8; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        to.write_str(std::str::from_utf8(&text).map_err(|_| std::fmt::Error)?)
    }
}
