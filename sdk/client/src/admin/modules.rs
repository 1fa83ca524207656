//! Modules: pushed, listed, described, pulled, deleted.

use bytes::Bytes;
use millstream_model::{Digest, limits::MODULE_BYTES_MAX};
use millstream_protocol::extension::modules::{
    ModuleDeleteRequest, ModuleDescribeRequest, ModuleDescribeResponse, ModuleInfo, ModuleListRequest,
    ModulePushRequest,
};

use super::Admin;
use crate::{CallError, cluster::Target, module_bytes::download};

/// A module that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PushedModule {
    /// The module.
    pub module: ModuleInfo,
    /// The name and version did not have these bytes before.
    pub is_new: bool,
}

impl Admin {
    /// Uploads a module; it is checked, compiled and durable when this returns. The same bytes again are no error, and told as such.
    ///
    /// # Errors
    /// The bytes are not a module that the broker runs (it says why), or the name and version have other bytes.
    pub async fn push_module(&self, name: &str, version: &str, bytes: Bytes) -> Result<PushedModule, CallError> {
        self.push_module_with(name, version, bytes, None).await
    }

    /// As [`Admin::push_module`], with the digest that the broker must find.
    ///
    /// # Errors
    /// As [`Admin::push_module`]; the bytes have another digest.
    pub async fn push_module_with(
        &self,
        name: &str,
        version: &str,
        bytes: Bytes,
        digest: Option<Digest>,
    ) -> Result<PushedModule, CallError> {
        let request = ModulePushRequest { name: name.into(), version: version.into(), digest, bytes };
        let response = self.cluster.ask_once(Target::Any, request).await?;
        CallError::check(&format!("module {name}@{version}"), response.error_code, response.error_message.as_deref())?;
        Ok(PushedModule { module: response.module, is_new: !response.unchanged })
    }

    /// The modules, by name; all or those of one name. No module is no error.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn list_modules(&self, name: Option<&str>) -> Result<Vec<ModuleInfo>, CallError> {
        let response = self.cluster.ask(Target::Any, ModuleListRequest { name: name.map(Into::into) }).await?;
        CallError::check("the modules", response.error_code, response.error_message.as_deref())?;
        Ok(response.modules)
    }

    /// One module; without a version the one pushed last.
    ///
    /// # Errors
    /// There is no such module.
    pub async fn describe_module(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<ModuleDescribeResponse, CallError> {
        let request = ModuleDescribeRequest { name: name.into(), version: version.map(Into::into) };
        let response = self.cluster.ask(Target::Any, request).await?;
        let what = match version {
            Some(version) => format!("module {name}@{version}"),
            None => format!("module {name}"),
        };
        CallError::check(&what, response.error_code, response.error_message.as_deref())?;
        Ok(response)
    }

    /// Downloads a module's bytes, which have the digest that [`Admin::describe_module`] tells: this is checked. At most
    /// [`MODULE_BYTES_MAX`] of them are held.
    ///
    /// # Errors
    /// There is no such module, the broker is of a version that hands out none, or it hands out other bytes.
    pub async fn pull_module(&self, name: &str, version: &str) -> Result<Bytes, CallError> {
        let digest = self.describe_module(name, Some(version)).await?.module.digest;
        download(&self.cluster, &format!("module {name}@{version}"), digest, MODULE_BYTES_MAX).await
    }

    /// Deletes a module; the name and version may be pushed again, with other bytes.
    ///
    /// # Errors
    /// There is no such module, or something uses it.
    pub async fn delete_module(&self, name: &str, version: &str) -> Result<(), CallError> {
        let request = ModuleDeleteRequest { name: name.into(), version: version.into() };
        let response = self.cluster.ask_once(Target::Any, request).await?;
        CallError::check(&format!("module {name}@{version}"), response.error_code, response.error_message.as_deref())
    }
}
