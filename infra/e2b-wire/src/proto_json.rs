//! Serde adapters for the proto3 JSON mapping: bytes as base64, 64-bit integers as strings, enums by name or
//! number, and `null` standing for a field's default.

use serde::{Deserialize, Deserializer};

/// Reads `null` as the type's default, as proto3 JSON wants for every field.
pub fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Whether a value is its type's default, which proto3 JSON leaves out.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Bytes as base64: written in the standard alphabet with padding, read in either alphabet with or without it.
pub mod base64_bytes {
    use base64::Engine as _;
    use base64::alphabet;
    use base64::engine::{
        DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD,
    };
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use std::borrow::Cow;

    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const STANDARD_LENIENT: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_LENIENT: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

    /// Encodes in the standard alphabet with padding.
    pub fn encode(data: &[u8]) -> String {
        STANDARD.encode(data)
    }

    /// Decodes either alphabet, padded or not.
    ///
    /// # Errors
    /// When the text is not base64.
    pub fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
        if text.contains(['-', '_']) { URL_LENIENT.decode(text) } else { STANDARD_LENIENT.decode(text) }
    }

    /// For `#[serde(with)]`.
    pub fn serialize<S: Serializer>(data: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(data))
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = Option::<Cow<'de, str>>::deserialize(deserializer)?.unwrap_or_default();
        decode(&text).map(Bytes::from).map_err(|error| D::Error::custom(format!("not base64: {error}")))
    }
}

/// The same for an optional field.
pub mod base64_option {
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use std::borrow::Cow;

    /// For `#[serde(with)]`; `None` is written as `null`, so combine with `skip_serializing_if`.
    pub fn serialize<S: Serializer>(data: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
        match data {
            Some(data) => serializer.serialize_str(&super::base64_bytes::encode(data)),
            None => serializer.serialize_none(),
        }
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
        Option::<Cow<'de, str>>::deserialize(deserializer)?
            .map(|text| super::base64_bytes::decode(&text).map(Bytes::from))
            .transpose()
            .map_err(|error| D::Error::custom(format!("not base64: {error}")))
    }
}

/// 64-bit integers: written as a decimal string, read from a string or a number.
pub mod int64 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Text(String),
    }

    /// For `#[serde(with)]`.
    pub fn serialize<S: Serializer>(value: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        match Option::<Either>::deserialize(deserializer)? {
            None => Ok(0),
            Some(Either::Number(value)) => Ok(value),
            Some(Either::Text(text)) => text.parse().map_err(|_| D::Error::custom("not a 64-bit integer")),
        }
    }
}

/// Declares a proto3 enum: written by name, read by name or number, unknown numbers read as the first variant.
macro_rules! proto_enum {
    ($(#[$meta:meta])* $visibility:vis enum $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident = $number:literal => $text:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        $visibility enum $name { $($(#[$variant_meta])* $variant = $number,)+ }

        impl $name {
            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The number in the protocol definition.
            pub fn number(self) -> i32 {
                self as i32
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Reader;
                impl serde::de::Visitor<'_> for Reader {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!("a name or number of ", stringify!($name)))
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        match text {
                            $($text => Ok($name::$variant),)+
                            _ => Err(E::custom(format!(concat!("unknown ", stringify!($name), " {:?}"), text))),
                        }
                    }

                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$name, E> {
                        match number { $($number => Ok($name::$variant),)+ _ => Ok($name::default()) }
                    }

                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$name, E> {
                        u64::try_from(number).map_or_else(|_| Ok($name::default()), |number| self.visit_u64(number))
                    }
                }
                deserializer.deserialize_any(Reader)
            }
        }
    };
}
pub(crate) use proto_enum;
