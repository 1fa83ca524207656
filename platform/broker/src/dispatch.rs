//! Requests to their handlers: one line each.

use std::sync::Arc;

use futures::FutureExt;
use millstream_env::{BoxFuture, Peer};
use millstream_protocol::{Request, RequestHeader, Response, api_versions};

use crate::{handlers, shared::Shared};

/// Starts a request. Whatever must happen in the order of requests (appending) has happened when this returns; the future
/// is the rest. It answers nothing where the client asked for no answer.
pub(crate) fn dispatch(
    shared: &Arc<Shared>,
    _peer: &Peer,
    header: RequestHeader,
    request: Request,
) -> BoxFuture<'static, Option<Response>> {
    let shared = shared.clone();
    macro_rules! answer {
        ($variant:ident, $future:expr) => {
            $future.map(|response| Some(Response::$variant(response))).boxed()
        };
    }
    macro_rules! now {
        ($variant:ident, $response:expr) => {
            std::future::ready(Some(Response::$variant($response))).boxed()
        };
    }
    match request {
        Request::ApiVersions(_) => now!(ApiVersions, api_versions()),
        Request::Metadata(request) => now!(Metadata, handlers::metadata::handle(&shared, request)),
        Request::Produce(request) => {
            handlers::produce::handle(&shared, &header, request).map(|response| response.map(Response::Produce)).boxed()
        }
        Request::Fetch(request) => answer!(Fetch, handlers::fetch::handle(shared, header.version, request)),
        Request::ListOffsets(request) => now!(ListOffsets, handlers::list_offsets::handle(&shared, request)),
        Request::CreateTopics(request) => answer!(CreateTopics, handlers::create_topics::handle(shared, request)),
        Request::DeleteTopics(request) => {
            answer!(DeleteTopics, handlers::delete_topics::handle(shared, header.version, request))
        }
        Request::InitProducerId(request) => {
            answer!(InitProducerId, handlers::init_producer_id::handle(shared, request))
        }
        Request::DescribeConfigs(request) => {
            now!(DescribeConfigs, handlers::describe_configs::handle(&shared, header.version, request))
        }
        Request::DescribeCluster(_) => now!(DescribeCluster, handlers::cluster::describe(&shared)),
        Request::FindCoordinator(request) => {
            now!(FindCoordinator, handlers::find_coordinator::handle(header.version, request))
        }
        Request::ClusterInfo(_) => now!(ClusterInfo, handlers::cluster::info(&shared)),
        Request::ModulePush(request) => answer!(ModulePush, handlers::modules::push(shared, request)),
        Request::ModuleList(request) => now!(ModuleList, handlers::modules::list(&shared, &request)),
        Request::ModuleDescribe(request) => now!(ModuleDescribe, handlers::modules::describe(&shared, &request)),
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
