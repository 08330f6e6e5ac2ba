#include "viaduct/models/delta_net.h"

namespace viaduct::models {

using layout::Expr;

namespace {

// Hugging Face has of each key head its query, key, values and gates, and in a second tensor its betas and alphas;
// Megatron has all queries, all keys, all values, all gates, all betas, all alphas.
Expr make_in_projection(const RuleInput& in) {
  const DeltaNetSpec& net = in.layer().delta_net.value();
  const int64_t hidden = in.parameter.shape[1], heads = net.num_key_heads, per_head = net.num_value_heads / heads;
  const int64_t key = net.key_head_dim, value = per_head * net.value_head_dim;
  const Expr rows = Expr::input(in.names[0], {heads * (2 * key + 2 * value), hidden})
                        .reshape({heads, 2 * key + 2 * value, hidden});
  const Expr scalars =
      Expr::input(in.names[1], {heads * 2 * per_head, hidden}).reshape({heads, 2 * per_head, hidden});
  const auto part = [&](const Expr& from, int64_t begin, int64_t size) {
    return from.slice(1, begin, size).reshape({heads * size, hidden});
  };
  return Expr::concat(
      0, {part(rows, 0, key), part(rows, key, key), part(rows, 2 * key, value), part(rows, 2 * key + value, value),
          part(scalars, 0, per_head), part(scalars, per_head, per_head)});
}

}  // namespace

DeltaNetSpec read_delta_net(const HfConfig& config) {
  DeltaNetSpec net;
  net.num_key_heads = config.integer_or("linear_num_key_heads", 16);
  net.num_value_heads = config.integer_or("linear_num_value_heads", 32);
  net.key_head_dim = config.integer_or("linear_key_head_dim", 128);
  net.value_head_dim = config.integer_or("linear_value_head_dim", 128);
  net.conv_kernel = config.integer_or("linear_conv_kernel_dim", 4);
  return net;
}

void write_delta_net(const DeltaNetSpec& net, Json& config) {
  config.set("linear_conv_kernel_dim", net.conv_kernel);
  config.set("linear_key_head_dim", net.key_head_dim);
  config.set("linear_num_key_heads", net.num_key_heads);
  config.set("linear_num_value_heads", net.num_value_heads);
  config.set("linear_value_head_dim", net.value_head_dim);
}

void set_delta_net_provider(const DeltaNetSpec& net, config::ModelConfig& provider) {
  provider.linear_conv_kernel_dim = net.conv_kernel;
  provider.linear_key_head_dim = net.key_head_dim;
  provider.linear_num_key_heads = net.num_key_heads;
  provider.linear_num_value_heads = net.num_value_heads;
  provider.linear_value_head_dim = net.value_head_dim;
}

DeltaNetSpec read_delta_net_provider(const config::ModelConfig& provider) {
  DeltaNetSpec net;
  net.conv_kernel = provider.linear_conv_kernel_dim.value_or(4);
  net.key_head_dim = provider.linear_key_head_dim.value_or(128);
  net.num_key_heads = provider.linear_num_key_heads.value_or(16);
  net.num_value_heads = provider.linear_num_value_heads.value_or(32);
  net.value_head_dim = provider.linear_value_head_dim.value_or(128);
  return net;
}

std::vector<WeightRule> delta_net_rules() {
  const std::string mega = "decoder.layers.*.self_attention.", hf = "model.layers.*.", net = hf + "linear_attn.";
  WeightRule out_norm = same(mega + "out_norm.weight", net + "norm.weight");
  out_norm.add = -1;  // a plain norm in Hugging Face, stored as the others in Megatron
  return {
      same(mega + "in_proj.layer_norm_weight", hf + "input_layernorm.weight"),
      {mega + "in_proj.weight", {net + "in_proj_qkvz.weight", net + "in_proj_ba.weight"}, make_in_projection},
      same(mega + "conv1d.weight", net + "conv1d.weight"),
      same(mega + "A_log", net + "A_log"),
      same(mega + "dt_bias", net + "dt_bias"),
      std::move(out_norm),
      same(mega + "out_proj.weight", net + "out_proj.weight"),
  };
}

}  // namespace viaduct::models
