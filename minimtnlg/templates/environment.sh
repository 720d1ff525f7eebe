{% for variable, (value, why) in environment.items() %}
{% for line in why | wrapped %}
# {{ line }}
{% endfor %}
export {{ variable }}={{ value }}
{% endfor %}
# Where nodes have several networks, name the one for first contacts:
#export NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0
