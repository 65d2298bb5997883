# syntax=docker/dockerfile:1
# The worker's image. Builds the same with docker, podman and buildah:
#
#   docker build -t perago-worker .
#   docker build -t perago-worker --build-arg BASE_IMAGE=python:3.13-slim-bookworm@sha256:... .
#
# BASE_IMAGE may be any image with Python 3.11 or newer, its venv module and the GNU C library.
# Give it with its digest where builds have to repeat. deploy/examples/image adds tasks.
ARG BASE_IMAGE=python:3.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements.lock ./
# What runs gets no pip: it is installed from outside, from the lock file alone, hashes checked.
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/perago-worker \
    && /build/bin/pip --python /opt/perago-worker/bin/python install --quiet \
       --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY perago_worker ./perago_worker
# The build backend is in the lock file too, and has done its work after this.
RUN /build/bin/pip --python /opt/perago-worker/bin/python install --quiet \
      --no-deps --no-index --no-build-isolation . \
    && /build/bin/pip --python /opt/perago-worker/bin/python uninstall --quiet --yes \
       hatchling editables pathspec pluggy trove-classifiers \
    && /build/bin/pip --python /opt/perago-worker/bin/python check \
    # Modules in /opt/tasks are found like installed ones, by bodies in child processes too.
    && echo /opt/tasks > "$(/opt/perago-worker/bin/python -c \
       'import sysconfig; print(sysconfig.get_path("purelib"))')/tasks.pth"

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="perago-worker" \
      org.opencontainers.image.description="A worker daemon that lets a workflow step change versioned data safely" \
      org.opencontainers.image.licenses="Apache-2.0"
# /var/lib/perago-worker is for workspace.root: with /tmp, all that has to be writable.
RUN groupadd --gid 10001 worker \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin worker \
    && install -d -m 0755 /opt/tasks /etc/perago-worker \
    && install -d -m 0700 -o 10001 -g 10001 /var/lib/perago-worker
COPY --from=build /opt/perago-worker /opt/perago-worker
ENV PATH=/opt/perago-worker/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PERAGO_CONFIG=/etc/perago-worker/worker.toml
WORKDIR /tmp
USER 10001:10001
EXPOSE 9464
# For docker and podman; Kubernetes has probes of its own.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/livez', timeout=4)"]
STOPSIGNAL SIGTERM
# The worker is process 1: it handles signals by itself and reaps its children.
ENTRYPOINT ["perago-worker"]
