//! Modules: push, list, describe, delete, read.

use bytes::Bytes;
use millstream_model::{Digest, TimestampMs};

use super::Pair;
use crate::{ErrorCode, codec::message};

message! { @structs
    /// A module as others may know it.
    pub struct ModuleInfo {
        /// Its name.
        pub name: String,
        /// Its version.
        pub version: String,
        /// Its bytes' digest.
        pub digest: Digest = Digest([0; 32]),
        /// Its bytes.
        pub size_bytes: i64,
        /// What it can be used as, comma-separated: `partitioner`, `filter`, `mapper`.
        pub kind: String,
        /// What a partitioner declares to need of a record beside its key: `value`, `headers`.
        pub needs: Vec<String>,
        /// When it was pushed.
        pub pushed_at: TimestampMs,
    }
}

message! {
    /// Uploads a module. Pushing the same bytes under the same name and version again is done already; other bytes under
    /// a name and version that exist are refused with [`ErrorCode::NameTaken`].
    pub struct ModulePushRequest: 0..=0, flexible 0 {
        /// The module's name.
        pub name: String,
        /// The module's version.
        pub version: String,
        /// The bytes' digest, if the client wants it checked.
        pub digest: Option<Digest>,
        /// The component: at most `MODULE_BYTES_MAX` bytes.
        pub bytes: Bytes,
    }
}

message! {
    /// What became of it. The module is durable and may be used once this is answered without an error.
    pub struct ModulePushResponse: 0..=0, flexible 0 {
        /// What went wrong: [`ErrorCode::ModuleRefused`] for bytes that are not a module that this broker runs.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// The module; all empty with an error.
        pub module: ModuleInfo,
        /// The same bytes had this name and version before.
        pub unchanged: bool [tag 0],
    }
}

message! {
    /// Asks for modules, newest version first within a name.
    pub struct ModuleListRequest: 0..=0, flexible 0 {
        /// Only those of this name; null is all.
        pub name: Option<String>,
    }
}

message! {
    /// The modules.
    pub struct ModuleListResponse: 0..=0, flexible 0 {
        /// What went wrong.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// The modules, by name.
        pub modules: Vec<ModuleInfo>,
    }
}

message! {
    /// Asks about one module.
    pub struct ModuleDescribeRequest: 0..=0, flexible 0 {
        /// Its name.
        pub name: String,
        /// Its version; null is the one pushed last.
        pub version: Option<String>,
    }
}

message! {
    /// The module.
    pub struct ModuleDescribeResponse: 0..=0, flexible 0 {
        /// What went wrong: [`ErrorCode::ModuleNotFound`].
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// The module; all empty with an error.
        pub module: ModuleInfo,
        /// What its `describe` export said, in the broker's words: defaults are filled in, and what is not known is left out.
        pub declarations: Vec<ModuleDeclaration>,
        /// What uses it, e.g. `topic flights`, `view public`, `transform delays`.
        pub used_by: Vec<String>,
        /// Other things to know, by name.
        pub details: Vec<Pair>,
    }

    /// One thing that a module says about itself.
    pub struct ModuleDeclaration {
        /// `store`, `metric`, `param`, `needs`, `order` or `state-version`.
        pub kind: String,
        /// The thing's name.
        pub name: String,
        /// What is said of it.
        pub value: String,
    }
}

message! {
    /// Deletes a module that nothing uses. Its name and version may be pushed again, with other bytes.
    pub struct ModuleDeleteRequest: 0..=0, flexible 0 {
        /// Its name.
        pub name: String,
        /// Its version.
        pub version: String,
    }
}

message! {
    /// What became of it.
    pub struct ModuleDeleteResponse: 0..=0, flexible 0 {
        /// What went wrong: [`ErrorCode::ModuleNotFound`]; [`ErrorCode::InUse`] while a topic, view or transform uses it.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
    }
}

message! {
    /// Reads a part of a module's bytes: for those who run the module themselves, as a producer does with its topic's partitioner. Whoever
    /// may produce may ask.
    ///
    /// The digest comes from [`ModuleInfo`] or from a topic's routing. The bytes that stand for it never change, so that parts may be asked
    /// for in any order, of any broker; who has all of them must check the digest, for the broker does not look at it here.
    pub struct ModuleReadRequest: 0..=0, flexible 0 {
        /// The bytes' digest.
        pub digest: Digest = Digest([0; 32]),
        /// Where the part begins.
        pub offset: i64,
        /// How many bytes there may be, at least 1. The broker may give less: go on where that ends.
        pub max_bytes: i32,
    }
}

message! {
    /// The part.
    pub struct ModuleReadResponse: 0..=0, flexible 0 {
        /// What went wrong: [`ErrorCode::ModuleNotFound`] when no module has this digest; [`ErrorCode::InvalidRequest`] for an offset that is
        /// not in it.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// All of the module's bytes; 0 with an error.
        pub size_bytes: i64,
        /// Those from the offset on: at least one, at most 1 MiB and what was asked for; none with an error.
        pub bytes: Bytes,
    }
}
