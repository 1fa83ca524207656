//! One stream to a broker: requests pipelined in order, answers handed to whoever asked.
//!
//! Writing and reading go on side by side in one task, so that a broker that stops reading until its answers are taken
//! never stands against a client that stops reading until its requests are taken.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{SinkExt, StreamExt, future::Either};
use millstream_env::{Clock, Connection, Env, FrameSink, FrameSource, FrameStream};
use millstream_protocol::{
    ApiKey, Call, Request, Response,
    messages::api_versions::ApiVersionsRequest,
    session::{CallId, ClientSession, SendError, Versions},
};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::CallError;

/// Requests of one stream that may wait for their answers.
const IN_FLIGHT_MAX: usize = 128;

/// Who waits for what becomes of a request.
enum Reply {
    /// For its one answer; none where it has none.
    One(oneshot::Sender<Result<Option<Response>, CallError>>),
    /// For each of its answers, until one is the last.
    Each(mpsc::UnboundedSender<Result<Part, CallError>>),
}

impl Reply {
    /// Nobody need be there any more.
    fn fail(self, error: CallError) {
        match self {
            Self::One(reply) => drop(reply.send(Err(error))),
            Self::Each(reply) => drop(reply.send(Err(error))),
        }
    }
}

/// One of the answers to a request that has many.
pub(crate) struct Part {
    pub(crate) response: Response,
    /// How long its frame was, bytes.
    pub(crate) frame_bytes: usize,
}

enum Job {
    Ask {
        request: Request,
        reply: Reply,
    },
    /// Send nothing more, and drop this when the broker has finished too.
    Finish(oneshot::Sender<()>),
}

/// What a stream holds on to while it lives.
#[derive(Default)]
pub(crate) struct Held {
    /// A place among the streams of a connection that others share.
    pub(crate) _place: Option<OwnedSemaphorePermit>,
    /// The connection, if it was made for this stream.
    pub(crate) _connection: Option<Arc<dyn Connection>>,
}

/// One stream to a broker. The stream ends in order when the last handle is dropped, or with [`Channel::finish`].
pub(crate) struct Channel {
    broker: Arc<str>,
    clock: Arc<dyn Clock>,
    jobs: mpsc::UnboundedSender<Job>,
    /// Bounds what is queued and in flight.
    room: Semaphore,
    ended: Arc<Ended>,
    _held: Held,
}

/// Why the stream ended, once it has.
#[derive(Default)]
struct Ended(Mutex<Option<CallError>>);

impl Ended {
    /// The first cause stays.
    fn set(&self, error: CallError) {
        self.0.lock().get_or_insert(error);
    }
}

impl Channel {
    /// Starts to talk on a stream. Without `versions`, ask for them before anything else ([`Channel::ask_versions`]). `patience`: how
    /// long a broker may take to finish once nothing more is asked.
    pub(crate) fn start(
        env: &Env,
        broker: &Arc<str>,
        client_id: &Arc<str>,
        stream: FrameStream,
        held: Held,
        versions: Option<Arc<Versions>>,
        patience: Duration,
    ) -> Self {
        let mut session = ClientSession::new(Some(Arc::clone(client_id)));
        if let Some(versions) = versions {
            session.set_versions(versions);
        }
        let (jobs, queue) = mpsc::unbounded_channel();
        let ended = Arc::new(Ended::default());
        let (clock, told) = (Arc::clone(&env.clock), Arc::clone(&ended));
        let task = drive(stream, queue, session, Arc::clone(broker), told, clock, patience);
        drop(env.spawn.spawn("client stream", Box::pin(task)));
        Self {
            broker: Arc::clone(broker),
            clock: Arc::clone(&env.clock),
            jobs,
            room: Semaphore::new(IN_FLIGHT_MAX),
            ended,
            _held: held,
        }
    }

    /// Asks what the broker serves: for this stream, and for others of the connection.
    pub(crate) async fn ask_versions(&self, timeout: Duration) -> Result<Arc<Versions>, CallError> {
        let request = || ApiVersionsRequest {
            client_software_name: "millstream-rust".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
        };
        let started = self.clock.now();
        let mut response = self.call(request(), timeout).await?;
        if response.error_code == millstream_protocol::ErrorCode::UnsupportedVersion {
            // The session has learnt which version to ask in.
            response = self.call(request(), timeout.saturating_sub(self.clock.now() - started)).await?;
        }
        CallError::check("the broker's versions", response.error_code, None)?;
        Ok(Arc::new(Versions::from_response(&response)))
    }

    /// Who is talked to.
    pub(crate) fn broker(&self) -> &Arc<str> {
        &self.broker
    }

    /// Whether the stream has ended: it is of no more use.
    pub(crate) fn is_over(&self) -> bool {
        self.jobs.is_closed() || self.ended.0.lock().is_some()
    }

    /// Asks and waits for the answer. Dropping the future forgets the answer; what was asked is done all the same.
    ///
    /// After [`CallError::TimedOut`] the channel is over, so that a late answer cannot be taken for another.
    pub(crate) async fn call<C: Call>(&self, request: C, timeout: Duration) -> Result<C::Response, CallError> {
        let answer = self.exchange(request.into(), C::API, timeout).await?;
        let unexpected = || self.protocol(format!("the answer to {} is of another kind", C::API.name()));
        answer.ok_or_else(unexpected)?.try_into().map_err(|_| unexpected())
    }

    /// Sends a request that has no answer; ready once the transport has it.
    pub(crate) async fn tell(&self, request: Request, timeout: Duration) -> Result<(), CallError> {
        let api = request.api();
        self.exchange(request, api, timeout).await.map(|_| ())
    }

    /// Asks for something that has many answers: they come until one says that it is the last, or until an error. What bounds how much
    /// comes is the caller's to agree with the broker: here it waits to be taken.
    pub(crate) fn subscribe(
        &self,
        request: Request,
    ) -> Result<mpsc::UnboundedReceiver<Result<Part, CallError>>, CallError> {
        let (reply, answers) = mpsc::unbounded_channel();
        self.jobs.send(Job::Ask { request, reply: Reply::Each(reply) }).map_err(|_| self.cause())?;
        Ok(answers)
    }

    /// As [`Channel::tell`], without waiting for the transport: what is sent later leaves later.
    pub(crate) fn hand_over(&self, request: Request) -> Result<(), CallError> {
        let (reply, _) = oneshot::channel();
        self.jobs.send(Job::Ask { request, reply: Reply::One(reply) }).map_err(|_| self.cause())
    }

    /// Ends the stream in order: what was sent before is read and done by the broker when this returns, also requests that
    /// are not answered, unless the stream breaks or `patience` ends first. Questions still open then get no answer.
    pub(crate) async fn finish(&self, patience: Duration) {
        let (done, over) = oneshot::channel();
        if self.jobs.send(Job::Finish(done)).is_ok() {
            // Dropped, never sent: an error either way.
            futures::future::select(over, self.clock.sleep(patience)).await;
        }
        self.ended.set(CallError::Closed);
    }

    async fn exchange(&self, request: Request, api: ApiKey, after: Duration) -> Result<Option<Response>, CallError> {
        let exchange = async {
            let Ok(_room) = self.room.acquire().await else { return Err(self.cause()) };
            let (reply, answer) = oneshot::channel();
            self.jobs.send(Job::Ask { request, reply: Reply::One(reply) }).map_err(|_| self.cause())?;
            answer.await.unwrap_or_else(|_| Err(self.cause()))
        };
        match futures::future::select(std::pin::pin!(exchange), self.clock.sleep(after)).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => {
                let error = CallError::TimedOut { broker: Arc::clone(&self.broker), api, after };
                self.ended.set(error.clone());
                Err(error)
            }
        }
    }

    fn cause(&self) -> CallError {
        let known = self.ended.0.lock().clone();
        known.unwrap_or_else(|| disconnected(&self.broker, "it was closed"))
    }

    /// The broker broke the rules.
    pub(crate) fn protocol(&self, detail: String) -> CallError {
        CallError::Protocol { broker: Arc::clone(&self.broker), detail: detail.into() }
    }
}

fn disconnected(broker: &Arc<str>, reason: &str) -> CallError {
    CallError::Disconnected { broker: Arc::clone(broker), reason: reason.into() }
}

/// What the two halves share.
struct Shared {
    session: ClientSession,
    waiting: BTreeMap<CallId, Reply>,
}

/// How the sending side ended.
enum Sent {
    /// The stream broke.
    Broken(CallError),
    /// Nobody asks any more. Whoever wants to know when the broker has finished too waits for the sender's end.
    Finished(Option<oneshot::Sender<()>>),
}

/// Runs the stream until it ends or nobody can ask any more.
async fn drive(
    stream: FrameStream,
    jobs: mpsc::UnboundedReceiver<Job>,
    session: ClientSession,
    broker: Arc<str>,
    ended: Arc<Ended>,
    clock: Arc<dyn Clock>,
    patience: Duration,
) {
    let shared = Mutex::new(Shared { session, waiting: BTreeMap::new() });
    let error = {
        let writer = std::pin::pin!(write(stream.sink, jobs, &shared, &broker));
        let reader = std::pin::pin!(read(stream.source, &shared, &broker));
        match futures::future::select(writer, reader).await {
            Either::Left((Sent::Broken(error), _)) | Either::Right((error, _)) => error,
            Either::Left((Sent::Finished(done), reader)) => {
                // The broker finishes once it has done all that was asked, unanswered requests too. Left at once, it would
                // lose what it has not read. Whoever just lets go does not wait for answers: a Fetch may take long.
                if done.is_some() || shared.lock().waiting.is_empty() {
                    futures::future::select(reader, clock.sleep(patience)).await;
                }
                match done {
                    Some(_) => CallError::Closed,
                    None => disconnected(&broker, "it was closed here"),
                }
            }
        }
    };
    ended.set(error.clone());
    for (_, reply) in shared.into_inner().waiting {
        reply.fail(error.clone());
    }
}

/// Sends what is asked, until the stream breaks or nobody asks any more.
async fn write(
    mut sink: FrameSink,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    shared: &Mutex<Shared>,
    broker: &Arc<str>,
) -> Sent {
    let broken = |error: std::io::Error| Sent::Broken(disconnected(broker, &error.to_string()));
    let mut finished = None;
    while let Some(job) = jobs.recv().await {
        let mut told = Vec::new();
        let mut next = Some(job);
        while let Some(job) = next {
            let (request, reply) = match job {
                Job::Ask { request, reply } => (request, reply),
                Job::Finish(done) => {
                    finished = Some(done);
                    break;
                }
            };
            let frame = {
                let Shared { session, waiting } = &mut *shared.lock();
                match session.send(&request) {
                    Ok(sent) => {
                        if sent.answered {
                            waiting.insert(sent.call, reply);
                        } else {
                            told.push(reply);
                        }
                        Some(sent.frame)
                    }
                    Err(error) => {
                        let detail = error.to_string().into();
                        let broker = Arc::clone(broker);
                        reply.fail(match error {
                            SendError::NotServed { .. } => CallError::NotServed { broker, detail },
                            SendError::Encode { .. } => CallError::Protocol { broker, detail },
                        });
                        None
                    }
                }
            };
            if let Some(frame) = frame
                && let Err(error) = sink.feed(frame).await
            {
                return broken(error);
            }
            next = jobs.try_recv().ok();
        }
        if let Err(error) = sink.flush().await {
            return broken(error);
        }
        for reply in told {
            if let Reply::One(reply) = reply {
                let _ = reply.send(Ok(None));
            }
        }
        if finished.is_some() {
            break;
        }
    }
    let _ = sink.close().await;
    Sent::Finished(finished)
}

/// Hands answers out until the stream ends.
async fn read(mut source: FrameSource, shared: &Mutex<Shared>, broker: &Arc<str>) -> CallError {
    loop {
        let frame = match source.next().await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return disconnected(broker, &error.to_string()),
            None => return disconnected(broker, "the broker finished"),
        };
        let frame_bytes = frame.len();
        let Shared { session, waiting } = &mut *shared.lock();
        match session.handle_frame(frame) {
            Ok(answer) => {
                if let Some(Reply::Each(reply)) = waiting.get(&answer.call) {
                    let _ = reply.send(Ok(Part { response: answer.response, frame_bytes }));
                    if !answer.goes_on {
                        waiting.remove(&answer.call);
                    }
                } else if let Some(Reply::One(reply)) = waiting.remove(&answer.call) {
                    let _ = reply.send(Ok(Some(answer.response)));
                }
            }
            Err(error) => {
                let detail = error.to_string().into();
                return CallError::Protocol { broker: Arc::clone(broker), detail };
            }
        }
    }
}
