# The converter in an image of its own: built by the steps that a machine takes (tools/setup converter, make build).
#   docker build -t viaduct .
#   docker run --rm -v "$PWD:/work" -w /work viaduct import hf megatron --tp 2
FROM debian:12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends make git ca-certificates
WORKDIR /src
COPY . .
RUN make build

FROM debian:12-slim
# libcurl for models by name; everything else is in the program.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libcurl4 && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/bin/viaduct /usr/local/bin/viaduct
ENTRYPOINT ["viaduct"]
CMD ["--help"]
