//! Views: created, listed, deleted.

use millstream_model::ViewId;
use millstream_protocol::extension::{
    Pair,
    views::{ViewCreateRequest, ViewDeleteRequest, ViewInfo, ViewListRequest},
};

use super::{Admin, left_out};
use crate::{
    CallError,
    cluster::{Target, is_unknown},
};

impl Admin {
    /// Creates a view of a topic: `chain` are modules, `name@version`, in the order in which records pass them.
    ///
    /// # Errors
    /// The name is taken, the topic or a module does not exist, a module is of another kind or refuses a parameter.
    pub async fn create_view(
        &self,
        name: &str,
        topic: &str,
        chain: &[String],
        params: &[(String, String)],
    ) -> Result<ViewId, CallError> {
        let request =
            ViewCreateRequest { name: name.into(), topic: topic.into(), chain: chain.to_vec(), params: pairs(params) };
        let response = self.cluster.ask_once(Target::Any, request).await?;
        CallError::check(&format!("view {name:?}"), response.error_code, response.error_message.as_deref())?;
        Ok(response.view_id)
    }

    /// The views, by name; all or those of one name, of which there is at most one. No view is no error.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn list_views(&self, name: Option<&str>) -> Result<Vec<ViewInfo>, CallError> {
        let response = self.cluster.ask(Target::Any, ViewListRequest { name: name.map(Into::into) }).await?;
        match CallError::check("the views", response.error_code, response.error_message.as_deref()) {
            Err(error) if !is_unknown(&error) => Err(error),
            _ => Ok(response.views),
        }
    }

    /// One view.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn describe_view(&self, name: &str) -> Result<ViewInfo, CallError> {
        let response = self.cluster.ask(Target::Any, ViewListRequest { name: Some(name.into()) }).await?;
        let what = format!("view {name:?}");
        CallError::check(&what, response.error_code, response.error_message.as_deref())?;
        response.views.into_iter().next().ok_or_else(|| left_out(&what))
    }

    /// Deletes a view; its topic stays.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn delete_view(&self, name: &str) -> Result<(), CallError> {
        let response = self.cluster.ask_once(Target::Any, ViewDeleteRequest { name: name.into() }).await?;
        CallError::check(&format!("view {name:?}"), response.error_code, response.error_message.as_deref())
    }
}

fn pairs(params: &[(String, String)]) -> Vec<Pair> {
    params.iter().map(|(name, value)| Pair { name: name.clone(), value: value.clone() }).collect()
}
