//! Questions asked of every message at once.

mod debug_tree;
mod differential;
mod hostile;
mod round_trip;

use crate::{ApiKey, Request, RequestHeader, Response, sample::Sample, sample::SampleRng};

macro_rules! samples {
    ($($api:ident;)*) => {
        /// A random request of an api.
        pub(crate) fn sample_request(api: ApiKey, rng: &mut SampleRng) -> Request {
            match api {
                $(ApiKey::$api => Request::$api(Sample::sample(rng)),)*
            }
        }

        /// A random answer of an api.
        pub(crate) fn sample_response(api: ApiKey, rng: &mut SampleRng) -> Response {
            match api {
                $(ApiKey::$api => Response::$api(Sample::sample(rng)),)*
            }
        }
    };
}

samples! {
    Produce;
    Fetch;
    ListOffsets;
    Metadata;
    FindCoordinator;
    ApiVersions;
    CreateTopics;
    DeleteTopics;
    DeleteRecords;
    InitProducerId;
    OffsetForLeaderEpoch;
    DescribeConfigs;
    AlterConfigs;
    DescribeLogDirs;
    CreatePartitions;
    IncrementalAlterConfigs;
    DescribeCluster;
    DescribeProducers;
    DescribeTopicPartitions;
    ModulePush;
    ModuleList;
    ModuleDescribe;
    ModuleDelete;
    ViewCreate;
    ViewList;
    ViewDelete;
    TransformDeploy;
    TransformList;
    TransformDescribe;
    TransformDelete;
    TransformPause;
    TransformResume;
    Assign;
    DescribeRouting;
    ClusterInfo;
}

/// Every api in every version that is served.
pub(crate) fn apis_and_versions() -> impl Iterator<Item = (ApiKey, i16)> {
    ApiKey::ALL.iter().flat_map(|api| api.versions().map(|version| (*api, version)))
}

/// A header for an answer.
pub(crate) fn header(api: ApiKey, version: i16) -> RequestHeader {
    RequestHeader { api, version, correlation_id: 7, client_id: None }
}
