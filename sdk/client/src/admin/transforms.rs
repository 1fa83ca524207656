//! Transforms: deployed, listed, described, paused, resumed, deleted.

use millstream_model::TransformId;
use millstream_protocol::extension::transforms::{
    TransformDeleteRequest, TransformDeployRequest, TransformDescribeRequest, TransformDescribeResponse, TransformInfo,
    TransformListRequest, TransformPauseRequest, TransformResumeRequest,
};

use super::Admin;
use crate::{CallError, cluster::Target};

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

    /// Stops a transform until it is resumed: once this returns, it appends nothing more.
    ///
    /// # Errors
    /// There is none of this name, or it has failed and stands still anyway.
    pub async fn pause_transform(&self, name: &str) -> Result<(), CallError> {
        let response = self.cluster.ask_once(Target::Any, TransformPauseRequest { name: name.into() }).await?;
        CallError::check(&format!("transform {name:?}"), response.error_code, response.error_message.as_deref())
    }

    /// Has a transform that was paused or has failed go on where it stood: what it has committed is not done again.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn resume_transform(&self, name: &str) -> Result<(), CallError> {
        let response = self.cluster.ask_once(Target::Any, TransformResumeRequest { name: name.into() }).await?;
        CallError::check(&format!("transform {name:?}"), response.error_code, response.error_message.as_deref())
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
