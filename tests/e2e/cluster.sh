#!/usr/bin/env bash
# A real Kubernetes of one node on this machine, in namespaces of its own: API server, scheduler,
# controllers, kubelet, containerd, kube-proxy and DNS. Needs Linux, root, Go and a few packages of
# Debian; says what is missing. There is one at a time on a machine.
#
#   cluster.sh check               say what is missing; nothing if it can run
#   cluster.sh up                  start it; returns when the node is Ready
#   cluster.sh down                end it, and remove all that it left
#   cluster.sh exec COMMAND...     run a command in its network: kubectl, helm, a browser, a test
#   cluster.sh load ARCHIVE...     import images from archives
#   cluster.sh install [HELM'S OPTIONS...]   build the images, load them, install the chart
#   cluster.sh kill NAME [SIGNAL]  signal a component, which is started again: kubelet, kube-apiserver
#   cluster.sh status              show its node and pods
#
# Its network holds lo and one bridge, and no route to anything else: nothing in it reaches the
# world, nor the world it. All its processes live in one pid namespace and end with its first one.
#
# CLUSTER_STATE  its files; the path must be short      (default: /run/meshhook-cluster)
# CLUSTER_LOGS   where `down` leaves the logs           (default: they go)
set -euo pipefail
SELF=$(readlink -f "$0")
HERE=$(dirname "$SELF")
S=${CLUSTER_STATE:-/run/meshhook-cluster}
NODE=node1 NODE_IP=198.18.0.1 POD_CIDR=198.18.0.0/24 SERVICE_CIDR=198.19.0.0/24 API_IP=198.19.0.1
PROGRAMS=(etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy coredns kubectl helm)
PACKAGES='runc containerd containernetworking-plugins iptables conntrack iproute2 ethtool socat'
export KUBECONFIG=$S/admin.conf PATH=$S/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin

die() { echo "cluster: $*" >&2; exit 1; }
alive() { # the recorded process still owns the recorded network; a pid alone may be another's by now
  [ -s "$S/pid" ] && [ -s "$S/network" ] &&
    [ "$(readlink "/proc/$(cat "$S/pid")/ns/net" 2>/dev/null)" = "$(cat "$S/network")" ]
}
inside() { nsenter -t "$(cat "$S/pid")" -n -- "$@"; }
within() { # SECONDS COMMAND...: try until it succeeds
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    alive || die "the first process ended; see $S/log"
    [ $SECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

# --- Before -------------------------------------------------------------------------------------
missing() { # print what keeps the cluster from running here, a line each
  [ "$(uname -s)" = Linux ] || { echo "it runs on Linux only, not on $(uname -s)"; return; }
  [ "$(id -u)" = 0 ] || echo "it needs root: kubelet and containerd make cgroups and mounts"
  local program
  for program in go python3 openssl unshare nsenter; do
    command -v $program >/dev/null || echo "there is no $program"
  done
  for program in containerd runc iptables conntrack ip ethtool; do
    command -v $program >/dev/null ||
      echo "there is no $program (on Debian: apt-get install $PACKAGES)"
  done
  [ -x /usr/lib/cni/bridge ] || echo "there is no /usr/lib/cni/bridge (containernetworking-plugins)"
  [ -d /sys/fs/cgroup/memory ] || [ -e /sys/fs/cgroup/cgroup.controllers ] ||
    echo "there are no cgroups for memory in /sys/fs/cgroup"
  local free
  free=$(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
  [ "$free" -ge 3000 ] || echo "it needs 3000 MB of memory, and $free MB are free"
}
programs() { # link the programs into one folder; they are built once
  local program path
  mkdir -p "$S/bin"
  for program in "${PROGRAMS[@]}"; do
    path=$(python3 "$HERE/../support/cluster/programs.py" "$program") || exit 1
    ln -sf "$path" "$S/bin/$program"
  done
  (cd "$HERE/pause" && CGO_ENABLED=0 GOWORK=off go build -trimpath -ldflags '-s -w' -o "$S/pause")
}
pause_image() { # a docker-archive of one layer with one program
  python3 - "$S/pause" "$S/pause.tar" <<'PY'
import hashlib, io, json, sys, tarfile

def add(archive, path, content, mode=0o644):
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(content), mode
    archive.addfile(info, io.BytesIO(content))

layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as archive:
    add(archive, "pause", open(sys.argv[1], "rb").read(), 0o755)
digest = "sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()
config = json.dumps({
    "architecture": {"aarch64": "arm64"}.get(__import__("platform").machine(), "amd64"),
    "os": "linux",
    "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
    "rootfs": {"type": "layers", "diff_ids": [digest]},
}).encode()
name = hashlib.sha256(config).hexdigest() + ".json"
manifest = [{"Config": name, "RepoTags": ["localhost/pause:1"], "Layers": ["layer.tar"]}]
with tarfile.open(sys.argv[2], "w") as archive:
    add(archive, "layer.tar", layer.getvalue())
    add(archive, name, config)
    add(archive, "manifest.json", json.dumps(manifest).encode())
PY
}

# --- Files --------------------------------------------------------------------------------------
certificate() { # NAME SUBJECT [ALTERNATIVE NAMES]
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -subj "$2" \
    -out "$1.csr" 2>/dev/null
  printf 'keyUsage=digitalSignature\nextendedKeyUsage=clientAuth,serverAuth\n%s\n' \
    "${3:+subjectAltName=$3}" >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
    -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm -f "$1.csr" "$1.ext"
}
kubeconfig() { # FILE CERTIFICATE
  cat >"$S/$1" <<Y
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$NODE_IP:6443", certificate-authority-data: $(base64 -w0 <ca.crt)}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 <"$2.crt"), client-key-data: $(base64 -w0 <"$2.key")}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
Y
  chmod 600 "$S/$1"
}
files() {
  mkdir -p "$S"/{pki,log,etcd,kubelet,containerd,run-containerd,pods,pod-links,cni,cni-conf,netns,run,volumes}
  cd "$S/pki"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key \
    -subj /CN=cluster-ca -days 30 -out ca.crt 2>/dev/null
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out sa.key 2>/dev/null
  openssl pkey -in sa.key -pubout -out sa.pub
  local k=kubernetes names
  names="DNS:$k,DNS:$k.default,DNS:$k.default.svc,DNS:$k.default.svc.cluster.local,DNS:localhost"
  certificate apiserver /CN=kube-apiserver "$names,IP:127.0.0.1,IP:$NODE_IP,IP:$API_IP"
  certificate admin /O=system:masters/CN=admin
  certificate to-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client
  certificate kubelet "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:$NODE_IP"
  certificate controller-manager /CN=system:kube-controller-manager
  certificate scheduler /CN=system:kube-scheduler
  certificate proxy /CN=system:kube-proxy
  local who
  for who in admin kubelet controller-manager scheduler proxy; do kubeconfig $who.conf $who; done
  echo "nameserver $NODE_IP" >"$S/resolv.conf"
  cat >"$S/cni-conf/10-bridge.conflist" <<Y
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_CIDR", "gateway": "$NODE_IP"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
Y
  cat >"$S/containerd.toml" <<Y
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
Y
  cat >"$S/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $S/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $S/pki/kubelet.crt
tlsPrivateKeyFile: $S/pki/kubelet.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
enforceNodeAllocatable: []
clusterDomain: cluster.local
clusterDNS: [$NODE_IP]
resolvConf: $S/resolv.conf
nodeStatusUpdateFrequency: 2s
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%}
volumePluginDir: /var/lib/kubelet/plugins-exec
Y
  cat >"$S/proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $S/proxy.conf}
mode: iptables
clusterCIDR: $POD_CIDR
hostnameOverride: $NODE
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
Y
  cat >"$S/Corefile" <<Y
.:53 {
  errors
  ready 127.0.0.1:8181
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $S/admin.conf
  }
  cache 2
}
Y
}

# --- The first process of the new namespaces ------------------------------------------------------
keep() { # NAME COMMAND...: run it, and again when it ends
  local name=$1
  shift
  while :; do
    "$@" >>"$S/log/$name.log" 2>&1 </dev/null &
    echo "$!" >"$S/run/$name.pid"
    wait "$!" || true
    sleep 0.5
  done &
}
init() {
  mount --make-rshared /
  local pair
  for pair in kubelet:/var/lib/kubelet containerd:/var/lib/containerd run-containerd:/run/containerd \
    pods:/var/log/pods pod-links:/var/log/containers cni:/var/lib/cni cni-conf:/etc/cni/net.d \
    netns:/run/netns; do
    mkdir -p "${pair#*:}"
    mount --bind "$S/${pair%%:*}" "${pair#*:}"
  done
  # Images and the layers of containers are in memory, where nothing waits for a disk.
  mount -t tmpfs -o size=6g images /var/lib/containerd
  ip link set lo up
  sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0
  ip link add cni0 address 02:00:c6:12:00:01 type bridge
  ip addr add "$NODE_IP/24" dev cni0
  ip link set cni0 up
  ip route add "$SERVICE_CIDR" dev cni0 # so that a process on the node may call a Service
  sysctl -qw net.bridge.bridge-nf-call-iptables=1
  cd "$S"
  keep containerd containerd --config "$S/containerd.toml"
  keep etcd etcd --data-dir "$S/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380
  keep kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --secure-port 6443 \
    --advertise-address "$NODE_IP" --service-cluster-ip-range "$SERVICE_CIDR" \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
    --client-ca-file pki/ca.crt --tls-cert-file pki/apiserver.crt \
    --tls-private-key-file pki/apiserver.key \
    --kubelet-client-certificate pki/to-kubelet.crt --kubelet-client-key pki/to-kubelet.key \
    --kubelet-certificate-authority pki/ca.crt --kubelet-preferred-address-types InternalIP \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-signing-key-file pki/sa.key --service-account-key-file pki/sa.pub
  until kubectl get --raw /readyz >/dev/null 2>&1; do sleep 0.1; done
  local client=(--leader-elect=false --kube-api-qps 300 --kube-api-burst 600)
  keep kube-controller-manager kube-controller-manager --kubeconfig controller-manager.conf \
    "${client[@]}" --use-service-account-credentials \
    --service-account-private-key-file pki/sa.key --root-ca-file pki/ca.crt
  keep kube-scheduler kube-scheduler --kubeconfig scheduler.conf "${client[@]}"
  keep kubelet kubelet --config kubelet.yaml --kubeconfig kubelet.conf --node-ip "$NODE_IP" \
    --hostname-override "$NODE"
  keep kube-proxy kube-proxy --config proxy.yaml
  keep coredns coredns -conf "$S/Corefile"
  wait
}

# --- Commands -----------------------------------------------------------------------------------
up() {
  alive && die "it is up already; end it with: $0 down"
  local reasons
  reasons=$(missing)
  [ -z "$reasons" ] || die "$reasons"
  [ ! -e "$S" ] || down
  [ -z "$(find /sys/fs/cgroup -maxdepth 2 -name kubepods 2>/dev/null)" ] ||
    die "another kubelet runs on this machine: /sys/fs/cgroup/**/kubepods"
  mkdir -p "$S"
  programs
  pause_image
  files
  (cd /proc/sys && head -qn1 vm/overcommit_memory kernel/panic kernel/panic_on_oops) >"$S/sysctl.before"
  setsid unshare --net --mount --pid --fork --mount-proc --kill-child -- "$SELF" _init \
    </dev/null >"$S/log/init.log" 2>&1 &
  local starter=$! first='' try
  for try in $(seq 600); do
    read -r first _ <"/proc/$starter/task/$starter/children" 2>/dev/null && [ -n "$first" ] && break
    sleep 0.1
  done
  [ -n "$first" ] || die "no namespaces could be made ($try tries); see $S/log/init.log"
  # shellcheck disable=SC2064 # this very process
  trap "[ \$? = 0 ] || kill -9 $first" EXIT # nothing is left running by an `up` that failed
  readlink "/proc/$first/ns/net" >"$S/network"
  echo "$first" >"$S/pid"
  [ "$(cat "$S/network")" != "$(readlink /proc/self/ns/net)" ] || die "it has no network of its own"
  within 90 inside kubectl get --raw /readyz || die "no API server after 90 s; see $S/log"
  within 90 inside kubectl wait --for=condition=Ready "node/$NODE" --timeout=1s ||
    die "the node is not Ready; see $S/log"
  within 90 inside kubectl get serviceaccount default || die "there is no default service account"
  within 90 inside bash -c 'exec 3<>/dev/tcp/127.0.0.1/8181
    printf "GET /ready HTTP/1.0\r\n\r\n" >&3; read -r line <&3; [[ $line == *" 200 "* ]]' ||
    die "there is no DNS; see $S/log"
  load "$S/pause.tar"
  volumes | inside kubectl apply -f - >/dev/null
}
volumes() { # a few folders as volumes of the default class; there is no provisioner
  cat "$HERE/volumes.yaml"
  local number
  for number in 1 2 3 4; do
    mkdir -p "$S/volumes/$number"
    cat <<Y
---
apiVersion: v1
kind: PersistentVolume
metadata:
  name: local-$number
spec:
  capacity: {storage: 20Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local
  local: {path: $S/volumes/$number}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$NODE]}]
Y
  done
}
load() {
  local archive
  for archive; do
    ctr --address "$S/run-containerd/containerd.sock" --namespace k8s.io \
      images import --all-platforms "$archive" >/dev/null
  done
}
install() {
  local root=$HERE/../..
  local target
  for target in runtime evaluation; do
    "$root/deploy/image/build" --debian --target $target --output "$S/image.tar"
    load "$S/image.tar"
    rm "$S/image.tar"
  done
  inside helm install meshhook "$root/deploy/helm/meshhook" --wait --timeout 5m "$@" 2>"$S/log/helm.log" ||
    die "$(tail -3 "$S/log/helm.log")"
  cat <<T

The cluster is up. What is in its network is reached from there:
  $0 exec kubectl get jobqueues --watch
  $0 exec helm test meshhook --logs
  $0 exec bash
It ends with: $0 down
T
}
down() {
  [ -e "$S" ] || return 0
  local first try file
  if alive; then # with the first process of the pid namespace all others end
    first=$(cat "$S/pid")
    kill -9 "$first"
    for try in $(seq 600); do # it is gone when every process of its namespace is
      [ ! -e "/proc/$first" ] || grep -q '^State:.Z' "/proc/$first/status" 2>/dev/null && break
      sleep 0.1
    done
  fi
  for try in $(seq 600); do # the cgroups of the pods outlive them for a moment
    find /sys/fs/cgroup -depth -type d -path '/sys/fs/cgroup/*/kubepods*' -exec rmdir {} + \
      2>/dev/null || true
    [ -n "$(find /sys/fs/cgroup -maxdepth 2 -name kubepods)" ] || break
    sleep 0.1
  done
  if [ -s "$S/sysctl.before" ]; then # kubelet changes these, and they are the machine's
    try=0
    for file in vm/overcommit_memory kernel/panic kernel/panic_on_oops; do
      try=$((try + 1))
      sed -n "${try}p" "$S/sysctl.before" >"/proc/sys/$file" || true
    done
  fi
  ! grep -q " $S/" /proc/self/mounts || die "mounts are left below $S"
  if [ -n "${CLUSTER_LOGS:-}" ]; then
    mkdir -p "$CLUSTER_LOGS"
    cp -r "$S/log" "$S/pods" "$CLUSTER_LOGS" || true
  fi
  rm -rf --one-file-system "$S"
}
case ${1:-} in
  check)
    reasons=$(missing)
    [ -z "$reasons" ] || die "$reasons"
    ;;
  up) up ;;
  down) down ;;
  exec)
    shift
    alive || die "it is not up"
    # In place of this shell, so that a signal to it reaches the command.
    exec nsenter -t "$(cat "$S/pid")" -n -- "$@"
    ;;
  load)
    shift
    alive || die "it is not up"
    load "$@"
    ;;
  install)
    shift
    alive || die "it is not up"
    install "$@"
    ;;
  kill)
    alive || die "it is not up"
    nsenter -t "$(cat "$S/pid")" -p -- /bin/kill "-${3:-KILL}" "$(cat "$S/run/$2.pid")"
    ;;
  status)
    alive || die "it is not up"
    inside kubectl get nodes -o wide
    inside kubectl get pods --all-namespaces -o wide
    ;;
  _init) init ;;
  *)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$SELF"
    exit 2
    ;;
esac
