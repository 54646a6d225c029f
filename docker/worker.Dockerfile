# A node of the Ray cluster, head or worker; holds no database credentials.  docker build -f docker/worker.Dockerfile .
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/hwnas
WORKDIR /src
# torch's CPU build spares gigabytes: pass the index that has it with --build-arg TORCH_INDEX=...; without, the default
# build of the same version is installed.
ARG TORCH_INDEX=
COPY constraints.txt ./
RUN /opt/hwnas/bin/pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml LICENSE README.md ./
COPY nas ./nas
COPY search_spaces ./search_spaces
COPY predictors ./predictors
COPY workers ./workers
COPY server ./server
COPY agent ./agent
RUN /opt/hwnas/bin/pip install -c constraints.txt .

FROM python:3.11-slim
COPY --from=build /opt/hwnas /opt/hwnas
RUN useradd --uid 10001 --create-home hwnas && install -d -o hwnas -g hwnas /data
ENV PATH=/opt/hwnas/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 6379
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import socket; socket.create_connection(('ray-head', 6379), 5).close()"]
CMD ["ray", "start", "--address", "ray-head:6379", "--block"]
