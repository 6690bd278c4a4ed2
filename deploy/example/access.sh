#!/bin/sh
# Makes, in the working directory, what a service needs to know its callers, with OpenSSL alone, for trying things out:
#   ca.pem         the CA of the service's certificate (tls.crt, tls.key)
#   services.pem   the CA of services that call with a certificate: backend.crt and backend.key, spiffe://example.org/wallet-backend
#   identities.yaml  what that service may do
#   jwks.json      the public key of an issuer of tokens; issuer.key is its own
#   alice.token    a token of the user "alice", good for an hour
# A real service has its certificates from its platform and its tokens from its identity provider.
set -eu
umask 077
b64() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'

for ca in ca services; do
	openssl req -x509 $new -days 365 -subj "/CN=$ca" -keyout $ca.key -out $ca.pem 2>/dev/null
done
openssl req $new -subj /CN=mpcd -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" -keyout tls.key -out tls.csr 2>/dev/null
openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -days 90 -copy_extensions copy -out tls.crt 2>/dev/null
openssl req $new -subj /O=example -addext "subjectAltName=URI:spiffe://example.org/wallet-backend" -addext extendedKeyUsage=clientAuth \
	-keyout backend.key -out backend.csr 2>/dev/null
openssl x509 -req -in backend.csr -CA services.pem -CAkey services.key -days 90 -copy_extensions copy -out backend.crt 2>/dev/null
printf 'identities:\n  spiffe://example.org/wallet-backend: {scopes: [wallets:read, wallets:sign]}\n' >identities.yaml

openssl genpkey -algorithm ed25519 -out issuer.key
key=$(openssl pkey -in issuer.key -pubout -outform DER | tail -c 32 | b64)
printf '{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k1","use":"sig","alg":"EdDSA","x":"%s"}]}' "$key" >jwks.json
printf '%s.%s' "$(printf '{"alg":"EdDSA","kid":"k1"}' | b64)" \
	"$(printf '{"iss":"https://issuer.example.org","aud":"mpcd","sub":"alice","exp":%d}' $(($(date +%s) + 3600)) | b64)" >unsigned
printf '%s.%s' "$(cat unsigned)" "$(openssl pkeyutl -sign -inkey issuer.key -rawin -in unsigned | b64)" >alice.token
rm -f unsigned ./*.csr
