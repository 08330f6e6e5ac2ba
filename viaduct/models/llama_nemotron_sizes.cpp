#include "viaduct/models/llama_nemotron_sizes.h"

#include <fmt/format.h>

#include <initializer_list>
#include <string>

#include "viaduct/core/json.h"

namespace viaduct::models {

namespace {

// So many blocks one behind the other; 0 heads or a multiplier of 0: no attention, no MLP.
struct Run {
  int count;
  int heads_in_group;
  double ffn_mult;
};

std::string sizes_json(std::string_view sizes, std::initializer_list<Run> runs) {
  Json config = Json::parse(sizes, "sizes");
  Json blocks = Json::array();
  for (const Run& run : runs) {
    const std::string attention = run.heads_in_group ? fmt::format(R"("n_heads_in_group": {})", run.heads_in_group)
                                                     : std::string(R"("no_op": true)");
    const std::string ffn = run.ffn_mult > 0 ? fmt::format(R"("ffn_mult": {})", run.ffn_mult) : R"("no_op": true)";
    const Json block =
        Json::parse(fmt::format(R"({{"attention": {{{}}}, "ffn": {{{}}}}})", attention, ffn), "block");
    for (int i = 0; i < run.count; ++i) blocks.items().push_back(block);
  }
  config.set("num_hidden_layers", static_cast<int64_t>(blocks.items().size()));
  config.set("block_configs", std::move(blocks));
  return config.dump();
}

constexpr std::string_view kSuper = R"({"hidden_size": 8192, "num_attention_heads": 64, "head_dim": 128,
  "vocab_size": 128256, "max_position_embeddings": 131072})";
constexpr std::string_view kUltra = R"({"hidden_size": 16384, "num_attention_heads": 128, "head_dim": 128,
  "vocab_size": 128256, "max_position_embeddings": 131072, "rope_scaling": {"factor": 16.0, "high_freq_factor": 4.0,
  "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}})";

}  // namespace

std::string_view llama_nemotron_super() {
  static const std::string super =
      sizes_json(kSuper, {{1, 8, 2.625},  {5, 8, 5.25},   {2, 0, 2.625},  {3, 8, 5.25},   {1, 0, 3.28125},
                          {30, 8, 5.25},  {1, 0, 1.3125}, {2, 0, 2.625},  {1, 0, 1.3125}, {1, 0, 5.25},
                          {1, 0, 1.3125}, {1, 0, 2.625},  {3, 0, 1.3125}, {1, 8, 5.25},   {1, 0, 1.3125},
                          {2, 0, 1},      {1, 0, 1.3125}, {3, 0, 1},      {2, 0, 1.3125}, {2, 0, 0.5},
                          {2, 0, 1},      {2, 0, 0.5},    {1, 0, 1},      {2, 0, 0.5},    {9, 8, 5.25}});
  return super;
}

std::string_view llama_nemotron_ultra() {
  static const std::string ultra = sizes_json(
      kUltra, {{1, 16, 0.4875}, {1, 16, 0.975}, {6, 16, 1.4625}, {1, 16, 1.95},   {4, 0, 0},        {3, 16, 1.95},
               {2, 16, 4.875},  {6, 0, 0},      {3, 16, 4.875},  {5, 0, 0},       {3, 16, 4.875},   {1, 16, 2.4375},
               {3, 0, 0},       {3, 16, 1.95},  {1, 0, 1.95},    {1, 16, 4.875},  {1, 0, 4.875},    {5, 0, 0},
               {4, 16, 4.875},  {5, 0, 0},      {4, 16, 4.875},  {5, 0, 0},       {4, 16, 4.875},   {5, 0, 0},
               {4, 16, 4.875},  {5, 0, 0},      {1, 16, 4.875},  {3, 16, 3.4125}, {2, 0, 0},        {1, 16, 2.925},
               {3, 16, 2.4375}, {2, 0, 2.4375}, {1, 16, 2.4375}, {1, 0, 0},       {7, 0, 2.4375},   {1, 16, 2.4375},
               {5, 0, 0},       {1, 16, 2.925}, {1, 16, 4.875},  {1, 0, 4.875},   {1, 16, 4.875},   {8, 0, 0},
               {1, 0, 36.5625}, {8, 0, 0},      {1, 0, 39},      {8, 0, 0},       {1, 0, 31.40625}, {5, 0, 0},
               {1, 0, 27.5625}, {1, 0, 1.95},   {1, 16, 1.95},   {1, 16, 2.4375}, {1, 0, 0},        {2, 16, 2.4375},
               {1, 16, 3.4125}, {4, 16, 4.875}, {1, 16, 2.4375}});
  return ultra;
}

}  // namespace viaduct::models
