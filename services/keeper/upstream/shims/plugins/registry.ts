export type ActionConfigFieldBase = {
  key: string;
  label: string;
  type: "template-input" | "template-textarea" | "chain-select" | "gas-limit-multiplier" | "select" | "text";
  chainTypeFilter?: string | string[];
  allowedChainIds?: string[];
  placeholder?: string;
  defaultValue?: string;
  example?: string;
  helpTip?: string;
  isAddressField?: boolean;
  networkField?: string;
  actionSlug?: string;
  required?: boolean;
  rows?: number;
  showPrivateVariants?: boolean;
  valueFormat?: "json";
};

export type ActionConfigFieldGroup = {
  label: string;
  type: "group";
  fields: ActionConfigFieldBase[];
  defaultExpanded?: boolean;
};

export type ActionConfigField = ActionConfigFieldBase | ActionConfigFieldGroup;

export type OutputField = { field: string; description: string };

export type PluginAction = {
  slug: string;
  label: string;
  description: string;
  category: string;
  stepFunction: string;
  stepImportPath: string;
  configFields: ActionConfigField[];
  outputFields?: OutputField[];
  requiresCredentials?: boolean;
  credentialIntegrationType?: string;
};

export type IntegrationPlugin = {
  type: string;
  label: string;
  description: string;
  egress: "user-destination" | "fixed-host" | "none";
  icon: (properties: { className?: string }) => unknown;
  requiresCredentials?: boolean;
  singleConnection?: boolean;
  formFields: never[];
  testConfig?: {
    getTestFunction: () => Promise<() => Promise<{ success: boolean; error?: string }>>;
  };
  actions: PluginAction[];
};
