//! The macro in which a message is declared once, with everything that it is made of.
//!
//! ```text
//! message! {
//!     /// What it asks.
//!     pub struct FetchRequest: 4..=18, flexible 12 {
//!         /// In every version.
//!         pub max_wait_ms: i32,
//!         /// In some versions; elsewhere it has its default.
//!         pub replica_id: BrokerId [..=14] = BrokerId(-1),
//!         /// Tagged, in every flexible version.
//!         pub cluster_id: Option<String> [tag 0],
//!         /// Tagged, in some versions.
//!         pub replica_state: ReplicaState [tag 1, 15..],
//!     }
//!     /// A struct within it.
//!     pub struct ReplicaState { ... }
//! }
//! ```
//!
//! Tagged fields stand in the order of their tags. They are written only when they differ from their default; tags that
//! are not declared are skipped when read.

/// Declares one message: its structs, their defaults, and how they are read and written.
macro_rules! message {
    (
        $(#[$doc:meta])*
        pub struct $name:ident: $low:literal..=$high:literal, flexible $flexible:literal { $($fields:tt)* }
        $($structs:tt)*
    ) => {
        $crate::codec::message! { @structs
            $(#[$doc])*
            pub struct $name { $($fields)* }
            $($structs)*
        }

        impl $crate::codec::Message for $name {
            const NAME: &'static str = stringify!($name);
            const VERSIONS: ::std::ops::RangeInclusive<i16> = $low..=$high;
            const FLEXIBLE_FROM: i16 = $flexible;
        }
    };

    (@structs $(
        $(#[$doc:meta])*
        pub struct $name:ident {
            $(
                $(#[$field_doc:meta])*
                pub $field:ident: $type:ty $([$($when:tt)*])? $(= $default:expr)?
            ),* $(,)?
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $crate::codec::message!(@default $($default)?),)* }
            }
        }

        #[cfg(any(test, feature = "sample"))]
        impl $crate::sample::Sample for $name {
            #[allow(unused_variables, reason = "a message may have no fields")]
            fn sample(rng: &mut $crate::sample::SampleRng) -> Self {
                Self { $($field: $crate::sample::Sample::sample(rng),)* }
            }
        }

        impl $crate::codec::Field for $name {
            #[allow(clippy::reversed_empty_ranges, reason = "generated")]
            fn read(reader: &mut $crate::codec::Reader) -> Result<Self, $crate::codec::DecodeError> {
                #[allow(unused_mut, reason = "a message may have no fields")]
                let mut this = Self::default();
                $($crate::codec::message!(@read reader, this.$field, [$($($when)*)?]);)*
                if reader.flexible() {
                    #[allow(unused_variables, reason = "few structs have tagged fields")]
                    reader.tagged(|tag, reader| {
                        $($crate::codec::message!(@read_tagged reader, tag, this.$field, [$($($when)*)?]);)*
                        Ok(false)
                    })?;
                }
                Ok(this)
            }

            fn write(&self, writer: &mut $crate::codec::Writer) {
                $($crate::codec::message!(@write writer, self.$field, [$($($when)*)?]);)*
                if writer.flexible() {
                    #[allow(unused_mut, reason = "few structs have tagged fields")]
                    let mut tags = 0;
                    $($crate::codec::message!(
                        @count_tagged writer, tags, self.$field, [$($($when)*)?], [$($default)?]
                    );)*
                    writer.uvarint(tags);
                    $($crate::codec::message!(
                        @write_tagged writer, self.$field, [$($($when)*)?], [$($default)?]
                    );)*
                }
            }

            fn tells_error(&self) -> bool {
                false $(|| $crate::codec::Field::tells_error(&self.$field))*
            }
        }
    )*};

    (@default) => { Default::default() };
    (@default $default:expr) => { $default };

    (@read $reader:ident, $this:ident.$field:ident, []) => {
        $this.$field = $crate::codec::Field::read($reader)?
    };
    (@read $reader:ident, $this:ident.$field:ident, [tag $($rest:tt)*]) => {};
    (@read $reader:ident, $this:ident.$field:ident, [$versions:expr]) => {
        if ($versions).contains(&$reader.version()) {
            $this.$field = $crate::codec::Field::read($reader)?;
        }
    };

    (@read_tagged $reader:ident, $tag:ident, $this:ident.$field:ident, [tag $own:literal]) => {
        $crate::codec::message!(@read_tagged $reader, $tag, $this.$field, [tag $own, 0..])
    };
    (@read_tagged $reader:ident, $tag:ident, $this:ident.$field:ident, [tag $own:literal, $versions:expr]) => {
        if $tag == $own && ($versions).contains(&$reader.version()) {
            $this.$field = $crate::codec::Field::read($reader)?;
            return Ok(true);
        }
    };
    (@read_tagged $reader:ident, $tag:ident, $this:ident.$field:ident, [$($when:tt)*]) => {};

    (@write $writer:ident, $self:ident.$field:ident, []) => {
        $crate::codec::Field::write(&$self.$field, $writer)
    };
    (@write $writer:ident, $self:ident.$field:ident, [tag $($rest:tt)*]) => {};
    (@write $writer:ident, $self:ident.$field:ident, [$versions:expr]) => {
        if ($versions).contains(&$writer.version()) {
            $crate::codec::Field::write(&$self.$field, $writer);
        }
    };

    (@has_tagged $writer:ident, $self:ident.$field:ident, $versions:expr, [$($default:expr)?]) => {
        ($versions).contains(&$writer.version())
            && $crate::codec::differs(&$self.$field, &$crate::codec::message!(@default $($default)?))
    };

    (@count_tagged $writer:ident, $tags:ident, $self:ident.$field:ident, [tag $own:literal], $default:tt) => {
        $crate::codec::message!(@count_tagged $writer, $tags, $self.$field, [tag $own, 0..], $default)
    };
    (@count_tagged $writer:ident, $tags:ident, $self:ident.$field:ident, [tag $own:literal, $versions:expr], $default:tt) => {
        if $crate::codec::message!(@has_tagged $writer, $self.$field, $versions, $default) {
            $tags += 1;
        }
    };
    (@count_tagged $writer:ident, $tags:ident, $self:ident.$field:ident, [$($when:tt)*], $default:tt) => {};

    (@write_tagged $writer:ident, $self:ident.$field:ident, [tag $own:literal], $default:tt) => {
        $crate::codec::message!(@write_tagged $writer, $self.$field, [tag $own, 0..], $default)
    };
    (@write_tagged $writer:ident, $self:ident.$field:ident, [tag $own:literal, $versions:expr], $default:tt) => {
        if $crate::codec::message!(@has_tagged $writer, $self.$field, $versions, $default) {
            $writer.tagged($own, |writer| $crate::codec::Field::write(&$self.$field, writer));
        }
    };
    (@write_tagged $writer:ident, $self:ident.$field:ident, [$($when:tt)*], $default:tt) => {};
}

pub(crate) use message;

/// Makes a struct one that may be null.
macro_rules! nullable_struct {
    ($name:ident) => {
        impl $crate::codec::Nullable for $name {
            fn read_nullable(reader: &mut $crate::codec::Reader) -> Result<Option<Self>, $crate::codec::DecodeError> {
                use $crate::codec::Field;
                match i8::read(reader)? {
                    ..0 => Ok(None),
                    _ => Self::read(reader).map(Some),
                }
            }

            fn write_nullable(value: Option<&Self>, writer: &mut $crate::codec::Writer) {
                use $crate::codec::Field;
                match value {
                    None => (-1_i8).write(writer),
                    Some(value) => {
                        1_i8.write(writer);
                        value.write(writer);
                    }
                }
            }

            fn holds_error(&self) -> bool {
                $crate::codec::Field::tells_error(self)
            }
        }
    };
}
pub(crate) use nullable_struct;
