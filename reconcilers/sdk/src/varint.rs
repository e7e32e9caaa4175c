//! Varints: the codec of the data types' states.
//!
//! Promises: one number has one encoding (LEB128, shortest form, at most 64
//! bits), so equal states are equal bytes. Reading takes any bytes at all: it
//! never panics, never reads past the end, and reserves no memory on the word
//! of a length that the bytes at hand do not bear out.

/// Appends `number`, seven bits to a byte, lowest first.
pub fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends `number` so that small ones are short whatever their sign.
pub fn put_signed(out: &mut Vec<u8>, number: i64) {
    put(out, ((number << 1) ^ (number >> 63)) as u64);
}

/// Appends a length and then the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What is wrong with the bytes.
pub type Fault = &'static str;

/// Reads what the functions above wrote.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub fn byte(&mut self) -> Result<u8, Fault> {
        let (&first, rest) = self.0.split_first().ok_or("it ends too early")?;
        self.0 = rest;
        Ok(first)
    }

    pub fn number(&mut self) -> Result<u64, Fault> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err("a number has more than 64 bits");
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 {
                    Err("a number is not in its shortest form")
                } else {
                    Ok(number)
                };
            }
        }
        Err("a number has more than 64 bits")
    }

    pub fn signed(&mut self) -> Result<i64, Fault> {
        let bits = self.number()?;
        Ok((bits >> 1) as i64 ^ -((bits & 1) as i64))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let length = usize::try_from(self.number()?).map_err(|_| "it ends too early")?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Done: nothing may be left.
    pub fn end(self) -> Result<(), Fault> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err("bytes are left over")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unsigned(bytes: &[u8]) -> Result<u64, Fault> {
        let mut reader = Reader::new(bytes);
        let number = reader.number()?;
        reader.end().map(|()| number)
    }

    #[test]
    fn edges() {
        assert_eq!(unsigned(&[0]), Ok(0));
        assert_eq!(unsigned(&[0x80, 1]), Ok(128));
        assert_eq!(
            unsigned(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            Ok(u64::MAX)
        );
        assert!(unsigned(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).is_err());
        assert!(unsigned(&[0x80, 0]).is_err(), "not the shortest form");
        assert!(unsigned(&[0x80]).is_err(), "cut short");
        assert!(unsigned(&[]).is_err());
        assert!(
            Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 1, b'a'])
                .bytes()
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn unsigned_round_trip(number: u64) {
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            prop_assert_eq!(unsigned(&bytes), Ok(number));
        }

        #[test]
        fn signed_round_trip(number: i64) {
            let mut bytes = Vec::new();
            put_signed(&mut bytes, number);
            prop_assert_eq!(Reader::new(&bytes).signed(), Ok(number));
        }

        /// One number, one encoding: whatever is read is written back the same.
        #[test]
        fn canonical(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(number) = unsigned(&bytes) {
                let mut again = Vec::new();
                put(&mut again, number);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
