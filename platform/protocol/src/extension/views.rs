//! Views: create, list, delete.

use millstream_model::{TopicId, ViewId};

use super::Pair;
use crate::{ErrorCode, codec::message};

message! {
    /// Creates a view: from then on it is read by its name wherever a topic is.
    pub struct ViewCreateRequest: 0..=0, flexible 0 {
        /// Its name; shares one space with the topics' names.
        pub name: String,
        /// The topic that it shows.
        pub topic: String,
        /// The modules that records pass, first to last, each `name@version`; at least one.
        pub chain: Vec<String>,
        /// Parameters; every module of the chain gets all.
        pub params: Vec<Pair>,
    }
}

message! {
    /// What became of it.
    pub struct ViewCreateResponse: 0..=0, flexible 0 {
        /// What went wrong.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// The view's id; nil with an error.
        pub view_id: ViewId,
    }
}

message! {
    /// Asks for views.
    pub struct ViewListRequest: 0..=0, flexible 0 {
        /// Only the one of this name; null is all. An unknown name is [`ErrorCode::ViewNotFound`].
        pub name: Option<String>,
    }
}

message! {
    /// The views.
    pub struct ViewListResponse: 0..=0, flexible 0 {
        /// What went wrong.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// The views, by name.
        pub views: Vec<ViewInfo>,
    }

    /// One view.
    pub struct ViewInfo {
        /// Its name.
        pub name: String,
        /// Its id.
        pub view_id: ViewId,
        /// The topic that it shows.
        pub topic: String,
        /// That topic's id.
        pub topic_id: TopicId,
        /// The modules, first to last, each `name@version`.
        pub chain: Vec<String>,
        /// Parameters.
        pub params: Vec<Pair>,
    }
}

message! {
    /// Deletes a view.
    pub struct ViewDeleteRequest: 0..=0, flexible 0 {
        /// Its name.
        pub name: String,
    }
}

message! {
    /// What became of it.
    pub struct ViewDeleteResponse: 0..=0, flexible 0 {
        /// What went wrong: [`ErrorCode::ViewNotFound`].
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
    }
}
