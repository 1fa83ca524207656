//! The table of apis: keys, served and advertised versions, and which messages belong to each.

use std::{fmt, ops::RangeInclusive};

use crate::{
    codec::{DecodeError, EncodeError, Message, Reader, Writer, read_body, write_body},
    extension::{cluster::*, modules::*, routing::*, subscriptions::*, transforms::*, views::*},
    messages::{
        api_versions::*, cluster::*, configs::*, fetch::*, groups::*, log_dirs::*, metadata::*, offsets::*, produce::*,
        producers::*, records::*, topics::*,
    },
};

/// A request that knows its answer.
pub trait Call: Message + Into<Request> {
    /// The api.
    const API: ApiKey;
    /// What it is answered with.
    type Response: Message + Into<Response> + TryFrom<Response, Error = Response>;
}

macro_rules! apis {
    ($($(#[$doc:meta])* $name:ident = $key:literal $(, advertised from $advertised:literal)?: $request:ident => $response:ident;)*) => {
        /// An api that is served.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ApiKey {
            $($(#[$doc])* $name,)*
        }

        /// A request of any api.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Request {
            $($(#[$doc])* $name($request),)*
        }

        /// An answer of any api.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Response {
            $($(#[$doc])* $name($response),)*
        }

        impl ApiKey {
            /// Every api, by key.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The key on the wire.
            #[must_use]
            pub const fn code(self) -> i16 {
                match self {
                    $(Self::$name => $key,)*
                }
            }

            /// The api of a key; none when it is not served.
            #[must_use]
            pub const fn from_code(key: i16) -> Option<Self> {
                match key {
                    $($key => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Its name, as Kafka has it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The versions that are served.
            #[must_use]
            pub const fn versions(self) -> RangeInclusive<i16> {
                match self {
                    $(Self::$name => $request::VERSIONS,)*
                }
            }

            /// The first version with compact lengths and tagged fields.
            #[must_use]
            pub const fn flexible_from(self) -> i16 {
                match self {
                    $(Self::$name => $request::FLEXIBLE_FROM,)*
                }
            }

            /// The versions that ApiVersions lists. Produce lists versions that are not served, as Kafka does: librdkafka
            /// and others take a broker without them for one that is too old.
            #[must_use]
            pub const fn advertised(self) -> RangeInclusive<i16> {
                match self {
                    $($(Self::$name => $advertised..=*$request::VERSIONS.end(),)?)*
                    #[allow(unreachable_patterns, reason = "all may be named above")]
                    _ => self.versions(),
                }
            }
        }

        impl Request {
            /// The api.
            #[must_use]
            pub const fn api(&self) -> ApiKey {
                match self {
                    $(Self::$name(_) => ApiKey::$name,)*
                }
            }

            /// A random one of an api.
            #[cfg(any(test, feature = "sample"))]
            pub fn sample(api: ApiKey, rng: &mut crate::sample::SampleRng) -> Self {
                match api {
                    $(ApiKey::$name => Self::$name(crate::sample::Sample::sample(rng)),)*
                }
            }

            pub(crate) fn read(api: ApiKey, version: i16, reader: &mut Reader) -> Result<Self, DecodeError> {
                Ok(match api {
                    $(ApiKey::$name => Self::$name(read_body(reader, version)?),)*
                })
            }

            pub(crate) fn write(&self, version: i16, writer: &mut Writer) -> Result<(), EncodeError> {
                match self {
                    $(Self::$name(message) => write_body(writer, message, version),)*
                }
            }
        }

        impl Response {
            /// The api.
            #[must_use]
            pub const fn api(&self) -> ApiKey {
                match self {
                    $(Self::$name(_) => ApiKey::$name,)*
                }
            }

            /// Whether all of what was asked, or a part of it, is answered with an error. Goes through all of the answer.
            #[must_use]
            pub fn tells_error(&self) -> bool {
                match self {
                    $(Self::$name(message) => crate::codec::Field::tells_error(message),)*
                }
            }

            /// A random one of an api.
            #[cfg(any(test, feature = "sample"))]
            pub fn sample(api: ApiKey, rng: &mut crate::sample::SampleRng) -> Self {
                match api {
                    $(ApiKey::$name => Self::$name(crate::sample::Sample::sample(rng)),)*
                }
            }

            pub(crate) fn read(api: ApiKey, version: i16, reader: &mut Reader) -> Result<Self, DecodeError> {
                Ok(match api {
                    $(ApiKey::$name => Self::$name(read_body(reader, version)?),)*
                })
            }

            pub(crate) fn write(&self, version: i16, writer: &mut Writer) -> Result<(), EncodeError> {
                match self {
                    $(Self::$name(message) => write_body(writer, message, version),)*
                }
            }
        }

        $(
            impl Call for $request {
                const API: ApiKey = ApiKey::$name;
                type Response = $response;
            }

            impl From<$request> for Request {
                fn from(message: $request) -> Self {
                    Self::$name(message)
                }
            }

            impl From<$response> for Response {
                fn from(message: $response) -> Self {
                    Self::$name(message)
                }
            }

            impl TryFrom<Response> for $response {
                type Error = Response;

                fn try_from(response: Response) -> Result<Self, Response> {
                    match response {
                        Response::$name(message) => Ok(message),
                        other => Err(other),
                    }
                }
            }
        )*
    };
}

apis! {
    /// Appends record batches.
    Produce = 0, advertised from 0: ProduceRequest => ProduceResponse;
    /// Reads record batches.
    Fetch = 1: FetchRequest => FetchResponse;
    /// Offsets by time.
    ListOffsets = 2: ListOffsetsRequest => ListOffsetsResponse;
    /// Brokers, topics, partitions and leaders.
    Metadata = 3: MetadataRequest => MetadataResponse;
    /// Who looks after a group.
    FindCoordinator = 10: FindCoordinatorRequest => FindCoordinatorResponse;
    /// What is served.
    ApiVersions = 18: ApiVersionsRequest => ApiVersionsResponse;
    /// Creates topics.
    CreateTopics = 19: CreateTopicsRequest => CreateTopicsResponse;
    /// Deletes topics.
    DeleteTopics = 20: DeleteTopicsRequest => DeleteTopicsResponse;
    /// Deletes the records before an offset.
    DeleteRecords = 21: DeleteRecordsRequest => DeleteRecordsResponse;
    /// Gives an idempotent producer its id and epoch.
    InitProducerId = 22: InitProducerIdRequest => InitProducerIdResponse;
    /// Where epochs of leaders ended.
    OffsetForLeaderEpoch = 23: OffsetForLeaderEpochRequest => OffsetForLeaderEpochResponse;
    /// Settings of topics and brokers.
    DescribeConfigs = 32: DescribeConfigsRequest => DescribeConfigsResponse;
    /// Replaces the settings of topics.
    AlterConfigs = 33: AlterConfigsRequest => AlterConfigsResponse;
    /// What partitions take on the disks.
    DescribeLogDirs = 35: DescribeLogDirsRequest => DescribeLogDirsResponse;
    /// Gives topics more partitions.
    CreatePartitions = 37: CreatePartitionsRequest => CreatePartitionsResponse;
    /// Changes settings of topics.
    IncrementalAlterConfigs = 44: IncrementalAlterConfigsRequest => IncrementalAlterConfigsResponse;
    /// The brokers, for admin clients.
    DescribeCluster = 60: DescribeClusterRequest => DescribeClusterResponse;
    /// The producers that partitions know.
    DescribeProducers = 61: DescribeProducersRequest => DescribeProducersResponse;
    /// Topics, a page of partitions at a time.
    DescribeTopicPartitions = 75: DescribeTopicPartitionsRequest => DescribeTopicPartitionsResponse;
    /// Uploads a module.
    ModulePush = 20000: ModulePushRequest => ModulePushResponse;
    /// Lists modules.
    ModuleList = 20001: ModuleListRequest => ModuleListResponse;
    /// Tells about one module.
    ModuleDescribe = 20002: ModuleDescribeRequest => ModuleDescribeResponse;
    /// Deletes a module.
    ModuleDelete = 20003: ModuleDeleteRequest => ModuleDeleteResponse;
    /// Reads a part of a module's bytes.
    ModuleRead = 20004: ModuleReadRequest => ModuleReadResponse;
    /// Creates a view.
    ViewCreate = 20010: ViewCreateRequest => ViewCreateResponse;
    /// Lists views.
    ViewList = 20011: ViewListRequest => ViewListResponse;
    /// Deletes a view.
    ViewDelete = 20012: ViewDeleteRequest => ViewDeleteResponse;
    /// Deploys a transform.
    TransformDeploy = 20020: TransformDeployRequest => TransformDeployResponse;
    /// Lists transforms.
    TransformList = 20021: TransformListRequest => TransformListResponse;
    /// Tells about one transform.
    TransformDescribe = 20022: TransformDescribeRequest => TransformDescribeResponse;
    /// Deletes a transform.
    TransformDelete = 20023: TransformDeleteRequest => TransformDeleteResponse;
    /// Stops a transform until it is resumed.
    TransformPause = 20024: TransformPauseRequest => TransformPauseResponse;
    /// Has a transform go on.
    TransformResume = 20025: TransformResumeRequest => TransformResumeResponse;
    /// Chooses partitions by a topic's partitioner.
    Assign = 20030: AssignRequest => AssignResponse;
    /// How topics are routed.
    DescribeRouting = 20031: DescribeRoutingRequest => DescribeRoutingResponse;
    /// The cluster as its operator sees it.
    ClusterInfo = 20040: ClusterInfoRequest => ClusterInfoResponse;
    /// Reads record batches as they come: many answers.
    Subscribe = 20050: SubscribeRequest => SubscribeResponse;
    /// Lets a subscription go on.
    SubscriptionCredit = 20051: SubscriptionCreditRequest => SubscriptionCreditResponse;
}

impl Request {
    /// Whether an answer comes: not to Produce with acks=0, and not to [`Request::SubscriptionCredit`].
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        match self {
            Self::Produce(request) => request.acks != 0,
            Self::SubscriptionCredit(_) => false,
            _ => true,
        }
    }
}

impl ApiKey {
    /// Whether it is Millstream's own, not Kafka's.
    #[must_use]
    pub const fn is_extension(self) -> bool {
        self.code() >= 20_000
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What ApiVersions answers: every api with its advertised versions.
#[must_use]
pub fn api_versions() -> ApiVersionsResponse {
    ApiVersionsResponse { api_keys: ApiKey::ALL.iter().map(|api| (*api).into()).collect(), ..Default::default() }
}

impl From<ApiKey> for ApiVersion {
    fn from(api: ApiKey) -> Self {
        let (min_version, max_version) = api.advertised().into_inner();
        Self { api_key: api.code(), min_version, max_version }
    }
}
