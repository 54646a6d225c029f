# The service: REST API, dashboard, queue and dispatcher.  docker build -f docker/server.Dockerfile .
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
RUN /opt/hwnas/bin/pip install -c constraints.txt '.[postgres]'

FROM build AS docs
COPY mkdocs.yml ./
COPY docs ./docs
COPY tools ./tools
RUN /opt/hwnas/bin/pip install -c constraints.txt '.[docs]' && /opt/hwnas/bin/python -m tools.docs_pages

FROM python:3.11-slim
COPY --from=build /opt/hwnas /opt/hwnas
COPY --from=docs /src/server/help_site /opt/hwnas/lib/python3.11/site-packages/server/help_site
RUN useradd --uid 10001 --create-home hwnas && install -d -o hwnas -g hwnas /data
ENV PATH=/opt/hwnas/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    HWNAS_HOME=/data \
    HWNAS_HOST=0.0.0.0 \
    HWNAS_PORT=8765
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8765
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import httpx; httpx.get('http://127.0.0.1:8765/readyz').raise_for_status()"]
CMD ["nas", "serve"]
