//! Error codes of the wire: Kafka's numbers, and ours from 20000.

use std::fmt;

macro_rules! codes {
    ($($name:ident = $code:literal, $retriable:literal, $text:literal;)*) => {
        /// What went wrong, as the wire says it. The text of a code is what a person should read when there is no better.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(
                #[doc = concat!($code, ": ", $text, ".")]
                $name,
            )*
            /// A number that is not known here. Make it with [`ErrorCode::from_code`], which knows the others.
            Other(i16),
        }

        impl ErrorCode {
            /// Every code that has a name.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> i16 {
                match self {
                    $(Self::$name => $code,)*
                    Self::Other(code) => code,
                }
            }

            /// The code of a number.
            #[must_use]
            pub const fn from_code(code: i16) -> Self {
                match code {
                    $($code => Self::$name,)*
                    _ => Self::Other(code),
                }
            }

            /// Whether the same request may succeed later, perhaps elsewhere.
            #[must_use]
            pub const fn retriable(self) -> bool {
                match self {
                    $(Self::$name => $retriable,)*
                    Self::Other(_) => false,
                }
            }

            /// What it means, in a few words.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(_) => "an error that this version does not know",
                }
            }
        }
    };
}

codes! {
    UnknownServer = -1, false, "an unexpected error in the broker; its log says more";
    None = 0, false, "no error";
    OffsetOutOfRange = 1, false, "the offset is outside of what the log holds";
    CorruptMessage = 2, true, "the records are damaged: wrong checksum, size or format";
    UnknownTopicOrPartition = 3, true, "no such topic or partition here";
    InvalidFetchSize = 4, false, "the fetch size is not valid";
    LeaderNotAvailable = 5, true, "the partition has no leader at the moment";
    NotLeaderOrFollower = 6, true, "this broker does not lead the partition";
    RequestTimedOut = 7, true, "the request took too long";
    BrokerNotAvailable = 8, false, "the broker is not available";
    ReplicaNotAvailable = 9, true, "the replica is not available";
    MessageTooLarge = 10, false, "the batch is larger than max.message.bytes";
    StaleControllerEpoch = 11, false, "the controller has moved";
    OffsetMetadataTooLarge = 12, false, "the commit's metadata is too large";
    NetworkException = 13, true, "the connection ended before the answer";
    CoordinatorLoadInProgress = 14, true, "the coordinator is loading";
    CoordinatorNotAvailable = 15, true, "there is no coordinator at the moment";
    NotCoordinator = 16, true, "this broker is not the coordinator";
    InvalidTopic = 17, false, "the topic's name is not legal, or it may not be used so";
    RecordListTooLarge = 18, false, "the batch is larger than a segment";
    NotEnoughReplicas = 19, true, "fewer replicas are in sync than min.insync.replicas";
    NotEnoughReplicasAfterAppend = 20, true, "appended, but to fewer replicas than min.insync.replicas";
    InvalidRequiredAcks = 21, false, "acks must be -1, 0 or 1";
    IllegalGeneration = 22, false, "the group's generation is another";
    InconsistentGroupProtocol = 23, false, "the member's protocols do not match the group's";
    InvalidGroupId = 24, false, "the group's id is not legal";
    UnknownMemberId = 25, false, "the group does not know this member";
    InvalidSessionTimeout = 26, false, "the session timeout is out of range";
    RebalanceInProgress = 27, false, "the group is rebalancing";
    InvalidCommitOffsetSize = 28, false, "the commit is too large";
    TopicAuthorizationFailed = 29, false, "not allowed on this topic";
    GroupAuthorizationFailed = 30, false, "not allowed on this group";
    ClusterAuthorizationFailed = 31, false, "not allowed on the cluster";
    InvalidTimestamp = 32, false, "the record's time is out of range";
    UnsupportedSaslMechanism = 33, false, "the SASL mechanism is not supported";
    IllegalSaslState = 34, false, "not valid in this state of authentication";
    UnsupportedVersion = 35, false, "the api's version is not supported";
    TopicAlreadyExists = 36, false, "a topic or view of this name exists";
    InvalidPartitions = 37, false, "the number of partitions is not valid";
    InvalidReplicationFactor = 38, false, "the number of replicas is below 1 or above the number of brokers";
    InvalidReplicaAssignment = 39, false, "the replica assignment is not valid";
    InvalidConfig = 40, false, "a setting is not valid";
    NotController = 41, true, "this broker is not the controller";
    InvalidRequest = 42, false, "the request is not valid";
    UnsupportedForMessageFormat = 43, false, "the message format does not support this";
    PolicyViolation = 44, false, "a policy forbids this";
    OutOfOrderSequenceNumber = 45, false, "a batch of this producer is missing before this one";
    DuplicateSequenceNumber = 46, false, "this batch was appended before";
    InvalidProducerEpoch = 47, false, "the producer's epoch is old";
    InvalidTxnState = 48, false, "not valid in this state of the transaction";
    InvalidProducerIdMapping = 49, false, "the producer id is not the transactional id's";
    InvalidTransactionTimeout = 50, false, "the transaction timeout is too long";
    ConcurrentTransactions = 51, true, "another operation on the transaction is going on";
    TransactionCoordinatorFenced = 52, false, "the transaction's coordinator has changed";
    TransactionalIdAuthorizationFailed = 53, false, "not allowed on this transactional id";
    SecurityDisabled = 54, false, "security is not configured";
    OperationNotAttempted = 55, false, "not attempted, because another part of the request failed";
    KafkaStorage = 56, true, "the disk failed or is full";
    SaslAuthenticationFailed = 58, false, "authentication failed";
    UnknownProducerId = 59, false, "the producer id is not known";
    ReassignmentInProgress = 60, false, "the partition is being reassigned";
    NonEmptyGroup = 68, false, "the group has members";
    GroupIdNotFound = 69, false, "no such group";
    FetchSessionIdNotFound = 70, true, "no such fetch session";
    InvalidFetchSessionEpoch = 71, true, "the fetch session's epoch is another";
    TopicDeletionDisabled = 73, false, "topics may not be deleted";
    FencedLeaderEpoch = 74, true, "the client knows an older leader epoch";
    UnknownLeaderEpoch = 75, true, "the client knows a newer leader epoch";
    UnsupportedCompressionType = 76, false, "the client cannot read this compression";
    StaleBrokerEpoch = 77, false, "the broker's registration is older";
    OffsetNotAvailable = 78, true, "the offset is not known yet after an election";
    MemberIdRequired = 79, false, "join again with the member id given";
    PreferredLeaderNotAvailable = 80, true, "the preferred leader is not available";
    GroupMaxSizeReached = 81, false, "the group is full";
    FencedInstanceId = 82, false, "another member has this group.instance.id";
    EligibleLeadersNotAvailable = 83, true, "no replica may lead at the moment";
    ElectionNotNeeded = 84, true, "no election is needed";
    NoReassignmentInProgress = 85, false, "no reassignment is going on";
    GroupSubscribedToTopic = 86, false, "the group reads this topic";
    InvalidRecord = 87, false, "a record was refused";
    UnstableOffsetCommit = 88, true, "transactions are pending on these offsets";
    ThrottlingQuotaExceeded = 89, true, "the quota is used up";
    ProducerFenced = 90, false, "a newer producer has this transactional id";
    ResourceNotFound = 91, false, "no such resource";
    DuplicateResource = 92, false, "the same resource twice";
    UnacceptableCredential = 93, false, "the credential is not acceptable";
    UnknownTopicId = 100, true, "no topic with this id here";
    DuplicateBrokerRegistration = 101, false, "the broker's number is taken";
    BrokerIdNotRegistered = 102, false, "the broker is not registered";
    InconsistentTopicId = 103, true, "the log has another topic id";
    InconsistentClusterId = 104, false, "the client means another cluster";
    TransactionalIdNotFound = 105, false, "no such transactional id";
    FetchSessionTopicIdError = 106, true, "the fetch session mixes topic ids and names";
    IneligibleReplica = 107, false, "a replica may not be in the ISR";
    NewLeaderElected = 108, false, "the leader has changed";
    OffsetMovedToTieredStorage = 109, false, "the offset is in remote storage";
    FencedMemberEpoch = 110, false, "the member's epoch is fenced";
    UnreleasedInstanceId = 111, false, "the instance id is in use";
    UnsupportedAssignor = 112, false, "the assignor is not supported";
    StaleMemberEpoch = 113, false, "the member's epoch is old";
    MismatchedEndpointType = 114, false, "the wrong kind of endpoint";
    UnsupportedEndpointType = 115, false, "this kind of endpoint is not supported";
    UnknownControllerId = 116, false, "no such controller";
    InvalidRegistration = 119, false, "the broker's registration is not valid";
    TransactionAbortable = 120, false, "the transaction must be aborted";
    InvalidRegularExpression = 128, false, "the regular expression is not valid";
    RebootstrapRequired = 129, false, "the client must look the cluster up again";
    NotBuilt = 20000, false, "this version of Millstream does not have it";
    ModuleRefused = 20001, false, "the bytes are not a module that the broker runs";
    ModuleNotFound = 20002, false, "no such module";
    CallFailed = 20003, false, "the module refused a record, trapped or exceeded its budget";
    StaleRouting = 20004, false, "the topic's routing has changed: ask for the partitions again";
    NameTaken = 20005, false, "the name is taken";
    InvalidName = 20006, false, "the name is not legal";
    ViewNotFound = 20007, false, "no such view";
    TransformNotFound = 20008, false, "no such transform";
    WrongKind = 20009, false, "the module is of another kind";
    InvalidParameter = 20010, false, "a parameter is missing or not valid";
    InUse = 20011, false, "something still uses it";
    Overloaded = 20012, true, "the broker has no room for this at the moment";
    PartitionOutOfRange = 20013, false, "the partitioner chose a partition that the topic does not have";
}

impl ErrorCode {
    /// Whether nothing went wrong.
    #[must_use]
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::None)
    }

    /// Nothing, or the error.
    ///
    /// # Errors
    /// Itself, unless it is [`ErrorCode::None`].
    pub const fn ok(self) -> Result<(), Self> {
        match self {
            Self::None => Ok(()),
            error => Err(error),
        }
    }
}

#[expect(clippy::derivable_impls, reason = "the macro cannot mark one variant")]
impl Default for ErrorCode {
    fn default() -> Self {
        Self::None
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (error {})", self.text(), self.code())
    }
}

impl std::error::Error for ErrorCode {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_its_number_and_no_number_is_used_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(code.code()), *code);
            assert!(seen.insert(code.code()), "{code:?}");
        }
        assert_eq!(ErrorCode::from_code(12_345), ErrorCode::Other(12_345));
    }
}
