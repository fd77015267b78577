# gcdist on a CPU, not root. launch/compose and launch/kubernetes use it.
#
#   docker build -t gcdist:0.1.0 .
#
# PyTorch's default wheel brings CUDA, some gigabytes; to leave it out name PyTorch's own CPU wheel index (see
# pytorch.org/get-started):  --build-arg TORCH_INDEX=<that index>
ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH_INDEX=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /src
RUN python -m venv /opt/gcdist
COPY constraints.txt ./
RUN /opt/gcdist/bin/pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY gcdist ./gcdist
RUN python -m venv /opt/tools \
    && /opt/tools/bin/pip install -c constraints.txt hatchling \
    && /opt/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/gcdist/bin/pip install -c constraints.txt dist/*.whl

FROM python:${PYTHON}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin gcdist \
    && mkdir /runs && chown gcdist:gcdist /runs
COPY --from=build /opt/gcdist /opt/gcdist
# /tmp is for what is written: caches, and the file that the heart-beat touches
ENV PATH=/opt/gcdist/bin:$PATH HOME=/tmp NUMBA_CACHE_DIR=/tmp/numba PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1 \
    OMP_NUM_THREADS=1 GCDIST_BEAT_FILE=/tmp/beat
USER 10001:10001
WORKDIR /runs
HEALTHCHECK --interval=20s --timeout=5s --start-period=120s --retries=3 \
    CMD ["sh", "-c", "test -n \"$(find /tmp/beat -newermt '-30 seconds')\""]
ENTRYPOINT ["gcdist"]
CMD ["--help"]
