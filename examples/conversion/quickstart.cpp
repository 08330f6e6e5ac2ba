// The library in one page: a Hugging Face model to Megatron and back, and a look at single weights on the way.
//
//   quickstart HF_MODEL MEGATRON_DIR HF_DIR
#include <cstdio>
#include <exception>

#include "viaduct/bridge/auto_bridge.h"

using viaduct::bridge::AutoBridge;

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: quickstart HF_MODEL MEGATRON_DIR HF_DIR\n");
    return 2;
  }
  try {
    const AutoBridge bridge = AutoBridge::from_hf_pretrained(argv[1]);

    // How the model looks to Megatron: fields as in run_config.yaml, and what each parameter is made of.
    const auto provider = bridge.to_megatron_provider();
    std::printf("%s: %lld layers\n", provider.target.c_str(), static_cast<long long>(provider.num_layers));
    const auto tasks = bridge.get_conversion_tasks();
    std::printf("%zu parameters, for example %s from", tasks.size(), tasks.at(1).megatron_name.c_str());
    for (const auto& name : tasks.at(1).hf_names) std::printf(" %s", name.c_str());
    std::printf("\n");

    // Hugging Face -> Megatron, cut for two tensor-parallel ranks, and back.
    viaduct::bridge::MegatronTarget target;
    target.parallel.tp = 2;
    const auto written = bridge.import_ckpt(argv[2], target);
    std::printf("import: %llu bytes in %.2f s\n", static_cast<unsigned long long>(written.bytes_written),
                written.seconds);
    AutoBridge::export_ckpt(argv[2], argv[3]);

    // The weights themselves, one at a time, from either side.
    size_t tensors = 0, bytes = 0;
    AutoBridge::from_hf_pretrained(argv[2]).export_hf_weights(
        [&](const std::string&, viaduct::DType, const viaduct::Shape&, std::span<const std::byte> data) {
          ++tensors;
          bytes += data.size();
        });
    std::printf("export: %zu tensors, %zu bytes\n", tensors, bytes);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "quickstart: %s\n", error.what());
    return 1;
  }
}
