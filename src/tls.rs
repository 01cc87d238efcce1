//! Configuration of TLS for connections to servers.

use std::{fmt, sync::Arc};

#[cfg(feature = "postgres")]
use rustls::{CertificateError, client::WebPkiServerVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

/// Certificates, in PEM.
#[derive(Clone, Default)]
pub(crate) struct Certificates {
    /// The authorities to trust. `None` means those of the system.
    pub(crate) roots: Option<Vec<u8>>,
    /// The certificate chain and the private key of this client.
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Certificates {
    #[cfg(feature = "redis")]
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_none() && self.client.is_none()
    }
}

/// The checks of a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verification {
    /// An authority that is trusted has signed it, for the name of the server.
    Full,
    /// An authority that is trusted has signed it, for any name.
    #[cfg(feature = "postgres")]
    Authority,
    /// No check.
    None,
}

/// Returns the configuration of a client. An error names the faulty certificate.
pub(crate) fn client_config(certificates: &Certificates, verification: Verification) -> Result<ClientConfig, String> {
    let invalid = |what: &str, error: &dyn fmt::Display| format!("invalid {what}: {error}");
    let provider = CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(ring::default_provider()));
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid("cryptography provider", &error))?;
    let roots = || root_certificates(certificates.roots.as_deref());
    let config = match verification {
        Verification::Full => config.with_root_certificates(roots()?),
        #[cfg(feature = "postgres")]
        Verification::Authority => {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots()?), provider)
                .build()
                .map_err(|error| invalid("root certificate", &error))?;
            config.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnyName(verifier)))
        }
        Verification::None => config.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider))),
    };
    let mut config = match &certificates.client {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>();
            let chain = chain.map_err(|error| invalid("client certificate", &error))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| invalid("client key", &error))?;
            config.with_client_auth_cert(chain, key).map_err(|error| invalid("client certificate", &error))?
        }
    };
    config.enable_sni = verification != Verification::None;
    Ok(config)
}

/// Returns the given authorities, or those of the system.
fn root_certificates(pem: Option<&[u8]>) -> Result<RootCertStore, String> {
    let invalid = |error: &dyn fmt::Display| format!("invalid root certificate: {error}");
    let mut roots = RootCertStore::empty();
    match pem {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.map_err(|error| invalid(&error))?).map_err(|error| invalid(&error))?;
            }
            if roots.is_empty() {
                return Err(invalid(&"expected at least one certificate in PEM"));
            }
        }
        // Some systems have certificates that rustls does not read. The others count.
        None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    }
    Ok(roots)
}

/// The verifier of [`Verification::Authority`].
#[cfg(feature = "postgres")]
#[derive(Debug)]
struct AcceptAnyName(Arc<WebPkiServerVerifier>);

#[cfg(feature = "postgres")]
impl ServerCertVerifier for AcceptAnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The name is checked after the signatures and the dates.
        match self.0.verify_server_cert(certificate, chain, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The verifier of [`Verification::None`].
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
