# One image for all services; what it runs is its command:
#   docker build -t blackbird .
#   docker run --rm blackbird signal_service.py --version
# PYTHON_IMAGE may be any image with Python 3.11 or later as `python`; the package index is pip's and uv's own setting.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS environment
ARG UV_VERSION=0.13.9
RUN python -m pip install --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}"
WORKDIR /app
# The certificates of the base image, as pip uses them, so that those of a company can be added there.
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_NO_CACHE=true UV_SYSTEM_CERTS=true
# The packages change more seldom than the code: they are a layer of their own.
COPY pyproject.toml uv.lock ./
COPY deploy/lockfile_filter.py deploy/lockfile_filter.py
COPY deploy/image/complete_lock.sh deploy/image/complete_lock.sh
RUN deploy/image/complete_lock.sh && uv sync --frozen --no-dev --compile-bytecode

FROM ${PYTHON_IMAGE}
RUN useradd --uid 1000 --user-group --no-create-home --home-dir /app --shell /usr/sbin/nologin blackbird
WORKDIR /app
COPY --from=environment /app/.venv .venv
COPY . .
RUN python -m compileall -q . -x '\.venv' && install -d -o blackbird -g blackbird journal
# Numbers, so that Kubernetes can see that it is not root.
USER 1000:1000
ENV PYTHONUNBUFFERED=1 ALIVE_FILE=/tmp/alive
VOLUME /app/journal
STOPSIGNAL SIGTERM
ENTRYPOINT [".venv/bin/python"]
CMD ["signal_service.py", "--help"]
