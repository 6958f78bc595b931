//! How fields are encoded whose types say too little by themselves: each module is for
//! `#[cbor(with = "...")]` of a derived type. The derived decoders take an unknown variant of an optional field
//! for an absent one, also where that is no answer, and lose their place when the variant is nested: optional
//! fields of our own types name `option` or `lenient` here.

use minicbor::{decode::Error as Flaw, encode::Write};

/// Why encoding fails: the writer does.
type Fail<W> = minicbor::encode::Error<<W as Write>::Error>;

/// An optional value that may be absent, but not unknown: for `#[cbor(with = "...", has_nil)]`.
pub mod option {
    use super::{Fail, Flaw, Write};
    use crate::wire::codec;
    use minicbor::{Decode, Decoder, Encode, Encoder};

    /// Encodes it.
    pub fn encode<C, T: Encode<C>, W: Write>(
        value: &Option<T>,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), Fail<W>> {
        value.encode(e, ctx)
    }

    /// Decodes it; what only a later version knows in it is an error.
    pub fn decode<'b, C, T: Decode<'b, C>>(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Option<T>, Flaw> {
        let value = Option::<T>::decode(d, ctx);
        value.map_err(|error| match codec::is_unknown(&error) {
            true => Flaw::custom(codec::Tomorrow),
            false => error,
        })
    }

    /// Gives what an absent field means.
    pub fn nil<T>() -> Option<Option<T>> {
        Some(None)
    }

    /// Tells whether the field is left out.
    pub fn is_nil<T>(value: &Option<T>) -> bool {
        value.is_none()
    }
}

/// A value that is left out where it is the usual one, its type's default: for `#[cbor(with = "...", has_nil)]`. What
/// was written before there was such a field stays byte for byte as it was.
pub mod usual {
    use super::{Fail, Flaw, Write};
    use crate::wire::codec;
    use minicbor::{Decode, Decoder, Encode, Encoder};

    /// Writes the value.
    pub fn encode<C, T: Encode<C>, W: Write>(
        value: &T,
        e: &mut Encoder<W>,
        c: &mut C,
    ) -> Result<(), Fail<W>> {
        value.encode(e, c)
    }

    /// Reads the value; one that only a later version knows is an error, not the usual one.
    pub fn decode<'b, C, T: Decode<'b, C>>(d: &mut Decoder<'b>, c: &mut C) -> Result<T, Flaw> {
        T::decode(d, c).map_err(|error| match codec::is_unknown(&error) {
            true => Flaw::custom(codec::Tomorrow),
            false => error,
        })
    }

    /// What it is when it is absent.
    pub fn nil<T: Default>() -> Option<T> {
        Some(T::default())
    }

    /// Whether it is left out.
    pub fn is_nil<T: Default + PartialEq>(value: &T) -> bool {
        *value == T::default()
    }
}

/// An optional value that is as good as absent when only a later version knows it.
pub mod lenient {
    use super::Flaw;
    use crate::wire::codec;
    use minicbor::{Decode, Decoder};

    pub use super::option::{encode, is_nil, nil};

    /// Decodes it; what only a later version knows is `None`.
    pub fn decode<'b, C, T: Decode<'b, C>>(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Option<T>, Flaw> {
        let at = d.position();
        match Option::<T>::decode(d, ctx) {
            Err(error) if codec::is_unknown(&error) => {
                d.set_position(at);
                d.skip()?;
                Ok(None)
            }
            result => result,
        }
    }
}

/// A list from which what only a later version knows is left out.
pub mod known {
    use super::{Fail, Flaw, Write};
    use minicbor::{Decode, Decoder, Encode, Encoder};

    /// Encodes it.
    pub fn encode<C, T: Encode<C>, W: Write>(
        values: &[T],
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), Fail<W>> {
        values.encode(e, ctx)
    }

    /// Decodes it.
    pub fn decode<'b, C, T: Decode<'b, C>>(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Vec<T>, Flaw> {
        let count = d.array()?.ok_or_else(|| Flaw::message("a list without length"))?;
        let mut values = Vec::new();
        for _ in 0..count {
            if let Some(value) = super::lenient::decode(d, ctx)? {
                values.push(value);
            }
        }
        Ok(values)
    }
}

/// Sealed statements, a byte string each.
pub mod blobs {
    use super::{Fail, Flaw, Write};
    use crate::limits::MAX_STATEMENTS;
    use minicbor::{Decoder, Encoder, bytes::ByteSlice};

    /// A set has so many places, and one of a host can hold four: see `trust::members`.
    pub(crate) const MOST: usize = 4 * MAX_STATEMENTS;

    /// Encodes it.
    pub fn encode<C, W: Write>(blobs: &[Vec<u8>], e: &mut Encoder<W>, _: &mut C) -> Result<(), Fail<W>> {
        e.array(blobs.len() as u64)?;
        blobs.iter().try_for_each(|blob| e.bytes(blob).map(drop))
    }

    /// Decodes it.
    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Vec<Vec<u8>>, Flaw> {
        let blobs = d.array_iter::<&ByteSlice>()?;
        if blobs.size_hint().0 > MOST {
            return Err(Flaw::message("more statements than there can be"));
        }
        blobs.map(|blob| blob.map(|blob| blob.to_vec())).collect()
    }
}

/// Bytes whose names are made anew from what comes, a byte string each.
pub mod contents {
    use std::{collections::BTreeMap, sync::Arc};

    use super::{Fail, Flaw, Write};
    use crate::limits::MAX_FILES;
    use minicbor::{Decoder, Encoder, bytes::ByteSlice};

    /// Encodes them.
    pub fn encode<C, K, W: Write>(
        contents: &BTreeMap<K, Arc<[u8]>>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), Fail<W>> {
        e.array(contents.len() as u64)?;
        contents.values().try_for_each(|bytes| e.bytes(bytes).map(drop))
    }

    /// Decodes them.
    pub fn decode<C, K>(d: &mut Decoder<'_>, _: &mut C) -> Result<BTreeMap<K, Arc<[u8]>>, Flaw>
    where
        K: for<'a> From<&'a [u8]> + Ord,
    {
        let blobs = d.array_iter::<&ByteSlice>()?;
        // Those of two topologies may be kept at once.
        if blobs.size_hint().0 > 2 * MAX_FILES {
            return Err(Flaw::message("more files than there can be"));
        }
        blobs.map(|bytes| bytes.map(|bytes| (K::from(bytes), Arc::from(&bytes[..])))).collect()
    }
}

/// Values of two or three parts, each part under its number, so that they can grow like any other.
pub mod parts {
    use super::{Fail, Flaw, Write};
    use minicbor::{Decode, Decoder, Encode, Encoder};

    /// A value that is a list or map of such.
    pub trait Parts<C>: Sized {
        /// Encodes it.
        fn put<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), Fail<W>>;
        /// Decodes it.
        fn take<'b>(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, Flaw>;
    }

    #[derive(Encode, Decode)]
    #[cbor(map)]
    struct Two<A, B> {
        #[n(0)]
        a: A,
        #[n(1)]
        b: B,
    }

    #[derive(Encode, Decode)]
    #[cbor(map)]
    struct Three<A, B, D> {
        #[n(0)]
        a: A,
        #[n(1)]
        b: B,
        #[n(2)]
        d: D,
    }

    impl<C, A, B> Parts<C> for Vec<(A, B)>
    where
        A: Encode<C> + for<'b> Decode<'b, C>,
        B: Encode<C> + for<'b> Decode<'b, C>,
    {
        fn put<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), Fail<W>> {
            e.array(self.len() as u64)?;
            self.iter().try_for_each(|(a, b)| Two { a, b }.encode(e, ctx))
        }

        fn take<'b>(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, Flaw> {
            Ok(Vec::<Two<A, B>>::decode(d, ctx)?.into_iter().map(|Two { a, b }| (a, b)).collect())
        }
    }

    impl<C, A, B, D> Parts<C> for Vec<(A, B, D)>
    where
        A: Encode<C> + for<'b> Decode<'b, C>,
        B: Encode<C> + for<'b> Decode<'b, C>,
        D: Encode<C> + for<'b> Decode<'b, C>,
    {
        fn put<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), Fail<W>> {
            e.array(self.len() as u64)?;
            self.iter().try_for_each(|(a, b, d)| Three { a, b, d }.encode(e, ctx))
        }

        fn take<'b>(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, Flaw> {
            let all = Vec::<Three<A, B, D>>::decode(d, ctx)?;
            Ok(all.into_iter().map(|Three { a, b, d }| (a, b, d)).collect())
        }
    }

    /// Encodes it.
    pub fn encode<C, T: Parts<C>, W: Write>(
        value: &T,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), Fail<W>> {
        value.put(e, ctx)
    }

    /// Decodes it.
    pub fn decode<'b, C, T: Parts<C>>(d: &mut Decoder<'b>, ctx: &mut C) -> Result<T, Flaw> {
        T::take(d, ctx)
    }
}

/// A reason that stands beside its words, as bytes of its own: it counts as one part of the message around it, and
/// when a later version says it, or it is larger than [`MAX_BYTES`](reason::MAX_BYTES), its words are all there is.
pub mod reason {
    use super::{Fail, Flaw, Write};
    use crate::wire::{
        WireError,
        codec::{self, Form},
    };
    use minicbor::{Decode, Decoder, Encode, Encoder};

    pub use super::option::nil;

    /// A reason against each of a hundred hosts has half of it.
    pub const MAX_BYTES: usize = 16 * 1024;

    /// Encodes it.
    pub fn encode<C, T: Encode<()>, W: Write>(
        reason: &Option<T>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), Fail<W>> {
        match reason {
            Some(reason) => e.bytes(&codec::to_bytes(reason))?.ok(),
            None => e.null()?.ok(),
        }
    }

    /// Decodes it.
    pub fn decode<'b, C, T: Decode<'b, ()>>(d: &mut Decoder<'b>, _: &mut C) -> Result<Option<T>, Flaw> {
        match codec::from_bytes(d.bytes()?, MAX_BYTES, Form::Sound) {
            Ok(reason) => Ok(Some(reason)),
            Err(WireError::Unknown | WireError::TooLarge { .. }) => Ok(None),
            Err(error) => Err(Flaw::custom(error)),
        }
    }

    /// Tells whether the field is left out.
    pub fn is_nil<T: Encode<()>>(reason: &Option<T>) -> bool {
        reason.as_ref().is_none_or(|reason| codec::len(reason) > MAX_BYTES)
    }
}

/// Bytes of a fixed length that may be absent.
pub mod maybe_bytes {
    use super::{Fail, Flaw, Write};
    use minicbor::{Decoder, Encoder};

    pub use super::option::{is_nil, nil};

    /// Encodes them.
    pub fn encode<C, const N: usize, W: Write>(
        bytes: &Option<[u8; N]>,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), Fail<W>> {
        minicbor::bytes::encode(bytes, e, ctx)
    }

    /// Decodes them.
    pub fn decode<'b, C, const N: usize>(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Option<[u8; N]>, Flaw> {
        minicbor::bytes::decode(d, ctx)
    }
}

/// A path, which need not be text.
pub mod path {
    use std::{
        ffi::OsStr,
        os::unix::ffi::OsStrExt,
        path::{Path, PathBuf},
    };

    use super::{Fail, Flaw, Write};
    use minicbor::{Decoder, Encoder};

    /// Encodes it.
    pub fn encode<C, W: Write>(path: &Path, e: &mut Encoder<W>, _: &mut C) -> Result<(), Fail<W>> {
        e.bytes(path.as_os_str().as_bytes())?.ok()
    }

    /// Decodes it.
    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<PathBuf, Flaw> {
        Ok(OsStr::from_bytes(d.bytes()?).into())
    }
}
