//! Transforms: deployed, listed, described, paused, resumed, deleted.

use millstream_model::TransformId;
use millstream_protocol::extension::transforms::{
    TransformDeleteRequest, TransformDeployRequest, TransformDescribeRequest, TransformDescribeResponse, TransformInfo,
    TransformListRequest, TransformPauseRequest, TransformResumeRequest, TransformResumeResponse,
};

use super::Admin;
use crate::{CallError, cluster::Target};

/// What resuming a transform came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resumed {
    /// It did not run before.
    pub is_new: bool,
    /// The record that it had failed at, and tries again: `TOPIC/PARTITION@OFFSET`. None where no single record was to blame.
    pub failed_at: Option<String>,
}

impl Admin {
    /// Deploys a transform, which starts at once.
    ///
    /// # Errors
    /// The name is taken, a topic or the module does not exist, the module is of another kind or refuses a parameter, or the
    /// deployment asks for what is not built.
    pub async fn deploy_transform(&self, transform: TransformDeployRequest) -> Result<TransformId, CallError> {
        let what = format!("transform {:?}", transform.name);
        let response = self.cluster.ask_once(Target::Any, transform).await?;
        CallError::check(&what, response.error_code, response.error_message.as_deref())?;
        Ok(response.transform_id)
    }

    /// The transforms, by name.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn list_transforms(&self) -> Result<Vec<TransformInfo>, CallError> {
        let response = self.cluster.ask(Target::Any, TransformListRequest {}).await?;
        CallError::check("the transforms", response.error_code, response.error_message.as_deref())?;
        Ok(response.transforms)
    }

    /// One transform: its state, and how far it is in each partition.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn describe_transform(&self, name: &str) -> Result<TransformDescribeResponse, CallError> {
        let response = self.cluster.ask(Target::Any, TransformDescribeRequest { name: name.into() }).await?;
        CallError::check(&format!("transform {name:?}"), response.error_code, response.error_message.as_deref())?;
        Ok(response)
    }

    /// Stops a transform until it is resumed: once this returns, it appends nothing more. Whether it ran before.
    ///
    /// # Errors
    /// There is none of this name, or it has failed and stands still anyway.
    pub async fn pause_transform(&self, name: &str) -> Result<bool, CallError> {
        let response = self.cluster.ask_once(Target::Any, TransformPauseRequest { name: name.into() }).await?;
        CallError::check(&format!("transform {name:?}"), response.error_code, response.error_message.as_deref())?;
        Ok(!response.unchanged)
    }

    /// Has a transform that was paused or has failed go on where it stood: what it has committed is not done again. A record that it
    /// has failed at is tried again.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn resume_transform(&self, name: &str) -> Result<Resumed, CallError> {
        let response = self.resume(name, false).await?;
        Ok(Resumed { is_new: !response.unchanged, failed_at: response.failed_at })
    }

    /// Has a transform that has failed at a record go on after it. That record, and no other, is left out, also after a restart of
    /// the broker or a crash (unless it does not fail any more). Returns its place, `TOPIC/PARTITION@OFFSET`.
    ///
    /// # Errors
    /// There is no transform of this name, or it has not failed, or not at one record; or the broker is of an earlier version: then
    /// the record is tried again.
    pub async fn resume_transform_without_record(&self, name: &str) -> Result<String, CallError> {
        let response = self.resume(name, true).await?;
        match response.failed_at.filter(|_| response.skipped) {
            Some(record) => Ok(record),
            None => Err(CallError::NotServed {
                broker: "the broker".into(),
                detail: format!("it cannot leave a record out, and has transform {name} try it again").into(),
            }),
        }
    }

    async fn resume(&self, name: &str, skip: bool) -> Result<TransformResumeResponse, CallError> {
        let request = TransformResumeRequest { name: name.into(), skip };
        let response = self.cluster.ask_once(Target::Any, request).await?;
        CallError::check(&format!("transform {name:?}"), response.error_code, response.error_message.as_deref())?;
        Ok(response)
    }

    /// Deletes a transform; its topics stay.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn delete_transform(&self, name: &str) -> Result<(), CallError> {
        let response = self.cluster.ask_once(Target::Any, TransformDeleteRequest { name: name.into() }).await?;
        CallError::check(&format!("transform {name:?}"), response.error_code, response.error_message.as_deref())
    }
}
