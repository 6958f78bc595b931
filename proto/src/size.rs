//! Sizes as people write them: `512M`, `2G`, `2GiB`, `2GB`, `1.5T`. Powers of two whatever the spelling,
//! as in QEMU and Docker. Whole MiB inside.

/// Why a text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// It is not a number and a unit.
    #[error("write a number and a unit, such as \"512M\", \"2G\" or \"2GiB\"")]
    Form,
    /// A number alone is MiB to some programs and bytes to others.
    #[error("say the unit, such as \"512M\" or \"2G\"")]
    NoUnit,
    /// It is no whole number of MiB, or zero.
    #[error("write a whole number of MiB from 1 on, such as \"512M\"")]
    Fraction,
    /// It has more bytes than can be counted.
    #[error("it is larger than anything that can be stored")]
    TooLarge,
}

/// Reads a size in MiB.
pub fn mib(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(SizeError::Form);
    }
    let power = match unit.to_ascii_lowercase().as_str() {
        "" => return Err(SizeError::NoUnit),
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(SizeError::Form),
    };
    // Nobody writes more digits than these, and with them nothing overflows.
    if whole.trim_start_matches('0').len() > 19 || fraction.len() > 9 {
        return Err(SizeError::TooLarge);
    }
    let scale = 10_u128.pow(fraction.len() as u32);
    let digits = |text: &str| text.parse::<u128>().map_err(|_| SizeError::Form);
    let scaled = (digits(whole)? * scale + digits(fraction)?) << power;
    let bytes = scaled / scale;
    if bytes > u128::from(u64::MAX) {
        return Err(SizeError::TooLarge);
    }
    if !scaled.is_multiple_of(scale) || !bytes.is_multiple_of(1 << 20) || bytes == 0 {
        return Err(SizeError::Fraction);
    }
    u64::try_from(bytes >> 20).map_err(|_| SizeError::TooLarge)
}

/// Writes a size of whole MiB in the largest unit that loses nothing, such as `128GiB`.
pub fn text(mib: u64) -> String {
    match mib {
        0 => "0MiB".into(),
        _ if mib.is_multiple_of(1 << 20) => format!("{}TiB", mib >> 20),
        _ if mib.is_multiple_of(1 << 10) => format!("{}GiB", mib >> 10),
        _ => format!("{mib}MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [
            ("512M", 512),
            ("512MB", 512),
            ("512MiB", 512),
            ("512 mib", 512),
            ("2G", 2048),
            ("2g", 2048),
            ("2GB", 2048),
            ("2GiB", 2048),
            ("2gib", 2048),
            (" 2 GiB ", 2048),
            ("1.5G", 1536),
            ("1T", 1 << 20),
            ("1TB", 1 << 20),
            ("1P", 1 << 30),
            ("1024K", 1),
            ("0.5GiB", 512),
            ("007M", 7),
            ("16777215TiB", 16_777_215 << 20),
        ];
        for (text, wanted) in cases {
            assert_eq!(mib(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_told_why() {
        use SizeError::*;
        let cases = [
            ("", Form),
            ("M", Form),
            ("512", NoUnit),
            ("512X", Form),
            ("512MiBs", Form),
            ("-5M", Form),
            ("1e3M", Form),
            ("1..5G", Form),
            ("1.G", Form),
            ("½G", Form),
            ("0M", Fraction),
            ("64K", Fraction),
            ("1.0001M", Fraction),
            ("16777216TiB", TooLarge),
            ("99999999999999999999G", TooLarge),
            ("18446744073709551615P", TooLarge),
            (&"9".repeat(5000), NoUnit),
            (&format!("{}G", "9".repeat(5000)), TooLarge),
        ];
        for (text, wanted) in cases {
            assert_eq!(mib(text), Err(wanted), "{text}");
        }
    }

    #[test]
    fn a_size_is_written_without_loss() {
        for (mib, wanted) in
            [(0, "0MiB"), (21, "21MiB"), (1500, "1500MiB"), (2048, "2GiB"), (3 << 20, "3TiB")]
        {
            assert_eq!(text(mib), wanted);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(size in 1_u64..1 << 44) {
            assert_eq!(mib(&text(size)), Ok(size));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC{0,40}") {
            let _answered = mib(&text);
        }
    }
}
