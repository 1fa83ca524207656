//! Requests to their handlers: one line each.

use std::sync::Arc;

use futures::FutureExt;
use millstream_env::{BoxFuture, Share};
use millstream_protocol::{Request, RequestHeader, Response, api_versions, messages::fetch::FetchRequest};

use crate::{
    handlers::{self, fetch::StreamSession, produce},
    reply::Reply,
    shared::Shared,
    turn::Turn,
};

/// A request that can be started.
pub(crate) enum Work {
    Produce(produce::Checked),
    /// With room for the partitions that it names.
    Fetch(FetchRequest, Share),
    Other(Request),
    /// Looking at it has failed, in a way that is ours to repair.
    Failed,
}

/// When a request can be started.
pub(crate) enum Prepared {
    Now(Work),
    Later(BoxFuture<'static, Work>),
}

/// Whatever takes its time and must come before a request is started: unpacking batches, asking partitioners whether they lie where
/// they belong, and room in the journal for what it appends. A slow disk slows those who append, through the transport's flow control; those who read go on.
pub(crate) fn prepare(shared: &Arc<Shared>, version: i16, request: Request) -> Prepared {
    let request = match request {
        Request::Produce(request) => request,
        Request::Fetch(request) => return prepare_fetch(shared, request),
        request => return Prepared::Now(Work::Other(request)),
    };
    let mut checked = produce::check(shared, version, request);
    let packed = checked.unpack_small();
    if !packed && !checked.is_to_be_verified() && shared.storage.writable().now_or_never().is_some() {
        return Prepared::Now(Work::Produce(checked));
    }
    let shared = shared.clone();
    let later = async move {
        let unpacked = if packed { checked.unpack(&shared).await } else { Some(checked) };
        let Some(mut checked) = unpacked else { return Work::Failed };
        checked.verify(&shared).await;
        shared.storage.writable().await;
        Work::Produce(checked)
    };
    Prepared::Later(later.boxed())
}

/// One that names many partitions waits for room, and nothing more is read from its stream meanwhile.
fn prepare_fetch(shared: &Shared, request: FetchRequest) -> Prepared {
    let partitions = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    let Some(room) = shared.memory.fetch(partitions) else { return Prepared::Now(Work::Other(request.into())) };
    Prepared::Later(room.map(|share| Work::Fetch(request, share)).boxed())
}

/// Starts a request. Whatever must happen in the order of requests (appending) has happened when this returns; the future
/// is the rest.
pub(crate) fn dispatch(
    shared: &Arc<Shared>,
    header: RequestHeader,
    work: Work,
    turn: Turn,
    session: &StreamSession,
) -> BoxFuture<'static, Reply> {
    let shared = shared.clone();
    macro_rules! answer {
        ($variant:ident, $future:expr) => {
            $future.map(|response| Reply::Answer(Response::$variant(response))).boxed()
        };
    }
    macro_rules! now {
        ($variant:ident, $response:expr) => {
            std::future::ready(Reply::Answer(Response::$variant($response))).boxed()
        };
    }
    let request = match work {
        Work::Produce(checked) => return checked.append(&shared).boxed(),
        Work::Fetch(request, share) => {
            let fetch = handlers::fetch::handle(shared, header.version, request, Some(share), turn, session.clone());
            return fetch.map(|response| Reply::Answer(Response::Fetch(response))).boxed();
        }
        Work::Other(request) => request,
        Work::Failed => {
            let reason = "its batches could not be looked into; the broker's log says why";
            return std::future::ready(Reply::Close(reason.into())).boxed();
        }
    };
    match request {
        // Was taken apart above; the session has seen to credit.
        Request::Produce(_) | Request::SubscriptionCredit(_) => std::future::ready(Reply::Nothing).boxed(),
        Request::Subscribe(request) => handlers::fetch::subscribe(shared, request, turn),
        Request::ApiVersions(_) => now!(ApiVersions, api_versions()),
        Request::Metadata(request) => answer!(Metadata, handlers::metadata::handle(shared, request)),
        Request::Fetch(request) => {
            answer!(Fetch, handlers::fetch::handle(shared, header.version, request, None, turn, session.clone()))
        }
        Request::ListOffsets(request) => answer!(ListOffsets, handlers::list_offsets::handle(shared, request)),
        Request::CreateTopics(request) => answer!(CreateTopics, handlers::create_topics::handle(shared, request)),
        Request::CreatePartitions(request) => {
            answer!(CreatePartitions, handlers::create_partitions::handle(shared, request))
        }
        Request::DeleteRecords(request) => answer!(DeleteRecords, handlers::delete_records::handle(shared, request)),
        Request::DeleteTopics(request) => {
            answer!(DeleteTopics, handlers::delete_topics::handle(shared, header.version, request))
        }
        Request::InitProducerId(request) => {
            answer!(InitProducerId, handlers::init_producer_id::handle(shared, request))
        }
        Request::OffsetForLeaderEpoch(request) => {
            now!(OffsetForLeaderEpoch, handlers::offset_for_leader_epoch::handle(&shared, request))
        }
        Request::DescribeConfigs(request) => {
            now!(DescribeConfigs, handlers::describe_configs::handle(&shared, header.version, request))
        }
        Request::AlterConfigs(request) => answer!(AlterConfigs, handlers::alter_configs::replace(shared, request)),
        Request::IncrementalAlterConfigs(request) => {
            answer!(IncrementalAlterConfigs, handlers::alter_configs::change(shared, request))
        }
        Request::DescribeCluster(request) => {
            now!(DescribeCluster, handlers::cluster::describe(&shared, &request))
        }
        Request::DescribeLogDirs(request) => {
            now!(DescribeLogDirs, handlers::describe_log_dirs::handle(&shared, request))
        }
        Request::DescribeTopicPartitions(request) => {
            now!(DescribeTopicPartitions, handlers::describe_topic_partitions::handle(&shared, request))
        }
        Request::DescribeProducers(request) => {
            now!(DescribeProducers, handlers::describe_producers::handle(&shared, request))
        }
        Request::FindCoordinator(request) => {
            now!(FindCoordinator, handlers::find_coordinator::handle(header.version, request))
        }
        Request::ClusterInfo(_) => now!(ClusterInfo, handlers::cluster::info(&shared)),
        Request::ModulePush(request) => answer!(ModulePush, handlers::modules::push(shared, request)),
        Request::ModuleList(request) => now!(ModuleList, handlers::modules::list(&shared, &request)),
        Request::ModuleDescribe(request) => now!(ModuleDescribe, handlers::modules::describe(&shared, &request)),
        Request::ModuleDelete(request) => answer!(ModuleDelete, handlers::modules::delete(shared, request)),
        Request::ModuleRead(request) => answer!(ModuleRead, handlers::modules::read(shared, request, turn)),
        Request::ViewCreate(request) => answer!(ViewCreate, handlers::views::create(shared, request)),
        Request::ViewList(request) => now!(ViewList, handlers::views::list(&shared, &request)),
        Request::ViewDelete(request) => answer!(ViewDelete, handlers::views::delete(shared, request)),
        Request::TransformDeploy(request) => answer!(TransformDeploy, handlers::transforms::deploy(shared, request)),
        Request::TransformList(_) => now!(TransformList, handlers::transforms::list(&shared)),
        Request::TransformDescribe(request) => {
            now!(TransformDescribe, handlers::transforms::describe(&shared, &request))
        }
        Request::TransformPause(request) => answer!(TransformPause, handlers::transforms::pause(shared, request)),
        Request::TransformResume(request) => answer!(TransformResume, handlers::transforms::resume(shared, request)),
        Request::TransformDelete(request) => answer!(TransformDelete, handlers::transforms::delete(shared, request)),
        Request::Assign(request) => answer!(Assign, handlers::routing::assign(shared, request)),
        Request::DescribeRouting(request) => now!(DescribeRouting, handlers::routing::describe(&shared, &request)),
    }
}
