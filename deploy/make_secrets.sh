#!/bin/sh
# Makes what an installation must keep to itself, in a new directory (default: secrets, beside this
# file):
#
#   env          passwords, the page secret and the keys that services show to each other
#   keys.toml    the API keys that services accept; only their sha256
#   admin.key    the key that may do everything, for whoever runs the installation
#   tls.pem, tls.key, ca.pem, ca.key     a certificate for the services, and who signed it
#
# NAMES are further names of the certificate, such as DNS:anneal.example,IP:10.0.0.7
set -eu

directory=${1:-$(dirname "$0")/secrets}
names="DNS:localhost,IP:127.0.0.1"
for service in dataset trainer registry inference abtest; do
    names="$names,DNS:$service"
done
names="$names${NAMES:+,$NAMES}"

umask 077
mkdir "$directory"
cd "$directory"

random() {
    openssl rand -hex 32
}

# new_key ID PERMISSIONS: prints the key, and adds it to keys.toml.
new_key() {
    key="anneal_$1_$(random)"
    digest=$(printf %s "$key" | openssl dgst -sha256 -r | cut -d ' ' -f 1)
    printf '[[key]]\nid = "%s"\nsha256 = "%s"\npermissions = [%s]\nprojects = ["*"]\n\n' \
        "$1" "$digest" "$2" >> keys.toml
    printf %s "$key"
}

new_key admin '"*"' > admin.key
# NATS_PASSWORD begins with a letter: nats-server reads what looks like a number as one.
cat > env <<END
POSTGRES_PASSWORD=$(random)
NATS_PASSWORD=n$(random)
S3_ACCESS_KEY=anneal
S3_SECRET_KEY=$(random)
PAGE_SECRET=$(random)
SERVICES_KEY=$(new_key services \
    '"datasets.read", "baseModels.read", "models.read", "inference.generate"')
NODES_KEY=$(new_key nodes '"nodes.lease"')
END

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 -subj "/CN=Anneal CA" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.pem 2> openssl.log
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "/CN=anneal" -addext "subjectAltName=$names" \
    -keyout tls.key -out tls.csr 2>> openssl.log
openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 825 \
    -copy_extensions copyall -out tls.pem 2>> openssl.log
rm -f tls.csr ca.srl openssl.log

# Containers mount these as they are and run as a user of their own; the directory stays closed.
chmod 644 tls.key tls.pem ca.pem keys.toml
echo "made $directory; keep ca.key and admin.key somewhere else"
